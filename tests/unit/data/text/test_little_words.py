"""Little words, by the language of a text."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from llama2vec.data.text import little_words as module
from llama2vec.data.text.little_words import ENGLISH, language_of, little_words


@pytest.mark.parametrize(
    ("language", "question", "text"),
    [
        ("en", "war in Europe", "The war was over, and the soldiers went home to their families."),
        ("en", "llama wool", "llama wool"),
        ("en", "", ""),
        ("de", "Wie hoch ist die Miete?", "Die Miete beträgt 800 €."),
        ("de", "Miete", "Der Mieter zahlt die Miete, die im Vertrag steht, bis zum dritten Tag."),
        ("ru", "Какая арендная плата?", "Плата за квартиру не может быть выше, чем это было в договоре."),
        ("fr", "Quel est le loyer ?", "Le loyer est de 800 € et il est payé au début du mois."),
        ("pl", "Jaki jest czynsz?", "Czynsz jest płatny do dnia, który został podany w umowie."),
        ("fi", "Mikä on vuokra?", "Vuokra on maksettava ennen kuin kuukausi on ohi, ja se on kiinteä."),
        # Neither of the two is of a language that has little words here.
        ("en", "羊驼毛", "骆驼在沙漠里行走。"),
        # A single little word of another language may be a name or a measure.
        ("en", "pan lid", "Pan 24 cm"),
        ("en", "hat size", "Hat M; color: red"),
        ("en", "def", "def get(self, name): return self.values[name]"),
    ],
)
def test_the_language_is_the_one_with_the_most_little_words(language: str, question: str, text: str) -> None:
    assert language_of(text, question) == language


def test_little_words_are_written_as_words_are_compared() -> None:
    assert little_words("en") is ENGLISH
    assert {"ist", "die", "für"} <= little_words("de")
    assert {"и", "не"} <= little_words("ru")
    assert "artik" in little_words("tr")  # ı is the same as i
    assert {"jak", "jest"} <= little_words("pl")


def test_without_the_packages_of_the_lists_english_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_lists(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("bm25s", "stopwordsiso"):
            raise ImportError(name)
        return imported(name, *rest)

    caches = (module._others, module._languages_by_word)
    monkeypatch.setattr(builtins, "__import__", without_lists)
    for one in caches:
        one.cache_clear()
    try:
        assert language_of("Die Miete ist hoch.", "Wie hoch ist die Miete?") == "en"
        assert language_of("The rent is high.", "How high is the rent?") == "en"
    finally:
        for one in caches:
            one.cache_clear()

"""Settings of what is read."""

from __future__ import annotations

import pytest

from llama2vec.config import load_config
from llama2vec.data.settings import DEFAULT_EXCLUDE, CorpusPairSettings, ReadingSettings, TextSettings
from llama2vec.errors import ConfigError


@pytest.mark.parametrize(
    ("schema", "override", "message"),
    [
        (TextSettings, "min_words=65", r"min_words \(65\) is larger than max_words \(64\)"),
        (TextSettings, "language=english", "'english' is not an ISO 639 code"),
        (TextSettings, "held_out=1", "held_out"),
        (TextSettings, "stop_words=", "stop_words"),
        (CorpusPairSettings, "crop_max_words=2", r"query_min_words \(3\).*crop_max_words \(2\)"),
        (CorpusPairSettings, "query_max_words=11", r"crop_max_words \(12\) ≤ query_max_words \(11\)"),
        (CorpusPairSettings, "kinds={title=0, first_sentence=0, halves=0, crop=0}", "the share of every kind is 0"),
        (CorpusPairSettings, "kinds.titel=1", "did you mean 'kinds.title'"),
    ],
)
def test_settings_that_cannot_work_are_refused(schema: type[TextSettings], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(schema, None, [override])


def test_equal_lengths_switch_the_drawing_off() -> None:
    settings = load_config(TextSettings, None, ["min_words=20", "max_words=20"])
    assert settings.min_words == settings.max_words == 20


def test_an_english_list_of_stop_words_is_refused_for_another_language() -> None:
    with pytest.raises(ConfigError, match="nltk is an English list and the language is de; choose iso"):
        load_config(TextSettings, None, ["stop_words=nltk", "language=de"])


def test_patterns_to_exclude_are_added_to_the_defaults_once() -> None:
    assert ReadingSettings(exclude=()).choices == {}
    given = ReadingSettings(exclude=("drafts/",))
    assert given.exclude == (*DEFAULT_EXCLUDE, "drafts/")
    assert ReadingSettings.model_validate(given.model_dump(mode="json")) == given

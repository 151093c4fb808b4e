"""When two texts are the same."""

from __future__ import annotations

import re
import sys
import tomllib
import unicodedata
from pathlib import Path

import pytest

from llama2vec.data.text import words
from llama2vec.data.text.words import (
    chosen_stop_words,
    count_words,
    estimated_words,
    first_words,
    is_paired,
    is_plain,
    lower_case,
    sentence_spans,
    stop_words,
    stop_words_identity,
    text_key,
    word_key,
    word_pattern,
    word_runs,
    word_spans,
)
from llama2vec.errors import ConfigError, MissingDependencyError


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (" a\n b ", "a b"),
        ("The Llama", "the llama"),
        ("caf\u00e9", "cafe\u0301"),
        ("ＬＬＡＭＡ\u3000２", "llama 2"),
        ("Straße", "STRASSE"),
        ("\u1fb3", "\u0391\u0345"),
    ],
)
def test_texts_that_differ_in_case_space_or_form_are_the_same(first: str, second: str) -> None:
    assert text_key(first) == text_key(second)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("a llama – or “two”, don't you think?", 8), ("羊驼。", 2), ("「羊驼」 and 2 llamas", 6),
        ("알파카는 풀을 먹나요?", 3), ("アルパカ", 4), ("ภาษาไทย", 2), ("x" * 32, 1), ("a " + "x" * 33 + " b", 4),
        ("x" * 40 + " " + "é" * 41, 5), ("羊" + "." * 40 + "é", 3), ("«" + "x" * 80, 8),
    ],
)  # fmt: skip
def test_words_are_counted_by_space_or_by_sign(text: str, count: int) -> None:
    assert count_words(text) == len(word_spans(text)) == count
    assert first_words(text, 99) == text
    assert count_words(first_words(text, 2)) == min(count, 2)


@pytest.mark.parametrize(
    "word", ["किताब", "நூல்", "বৃষ্টি", "الكِتَابُ", "שָׁלוֹם", "İ".lower() + "zmir", "නෑ", "ශ්\u200dරී", "می\u200cخواهم"]
)
def test_a_word_holds_its_marks(word: str) -> None:
    assert word_pattern().findall(f"({word}, {word})_{word}") == [word] * 3
    text = f" {word}! {word}"
    assert [[text[begin:end] for begin, end in run] for run in word_runs(text)] == [[word], [word]]


def test_every_mark_is_a_mark() -> None:
    marks = [letter for letter in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(letter)[0] == "M"]
    assert all(word_pattern().fullmatch(f"a{mark}b") for mark in marks)
    assert not any(map(is_plain, marks))


def test_a_letter_of_a_script_without_spaces_keeps_its_marks() -> None:
    (thai, digit) = word_runs("งูกิน 7")
    assert ["งูกิน"[begin:end] for begin, end in thai] == ["งู", "กิ", "น"]
    assert digit == [(6, 7)]
    assert [is_paired(letter) for letter in "งກကក羊한aक"] == [True] * 6 + [False] * 2


def test_marks_that_writers_leave_out_do_not_make_another_word() -> None:
    assert word_key("الكِتَابُ") == word_key("الكتـاب") == "الكتاب"
    assert word_key("שָׁלוֹם") == "שלום"
    assert word_key("İZMİR") == word_key("izmir")
    assert word_key("می\u200cخواهم") == word_key("میخواهم")
    # What a vowel sign of other scripts, or an accent, tells apart stays apart.
    assert len({word_key(word) for word in ("की", "का", "क", "café", "cafe")}) == 5


def test_the_stop_words_of_a_language_with_vowel_signs_are_whole() -> None:
    assert {"नहीं", "है"} <= stop_words("hi")


@pytest.mark.parametrize(
    ("text", "count"), [("who won the race?", 4), ("알파카는 풀을 먹나요?", 3), ("谁赢得了比赛？", 3), ("誰が?", 1)]
)
def test_a_question_has_a_word_for_two_signs(text: str, count: int) -> None:
    assert estimated_words(text) == count


def test_lower_case_is_that_of_the_language() -> None:
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "IŞIK İZ")
        assert unicodedata.normalize("NFC", lower_case(text, "tr")) == "ışık iz"
        assert unicodedata.normalize("NFC", lower_case(text, "az")) == "ışık iz"
        assert lower_case(text, "de") == text.lower()


@pytest.mark.parametrize(("first", "second"), [("a b", "ab"), ("cafe", "café"), ("1", "l")])
def test_other_texts_are_not(first: str, second: str) -> None:
    assert text_key(first) != text_key(second)


def test_stop_words_come_from_the_list_of_the_language(caplog: pytest.LogCaptureFixture) -> None:
    assert {"the", "don", "t"} <= stop_words("en")
    assert "river" not in stop_words("en")
    assert stop_words("xx") == frozenset()
    assert "no stop-word list for language 'xx': all words count" in caplog.text


def test_the_log_says_once_where_stop_words_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    words._tell_of_phrases.cache_clear()
    for _ in range(2):
        assert "的" in (chosen_stop_words("iso", "zh") or ())
    chosen_stop_words("none", "ja")
    chosen_stop_words("iso", "de")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("stop words have hardly any effect in language 'zh': it is written without spaces")


def test_58_languages_have_stop_words_and_3_of_them_are_written_without_spaces() -> None:
    import stopwordsiso

    languages = stopwordsiso.langs()  # docs/method.md tells both numbers
    assert (len(languages), languages & words.WITHOUT_SPACES) == (58, {"zh", "ja", "th"})
    assert all(map(stop_words, languages))


def test_the_list_of_the_authors_code_is_shipped_whole() -> None:
    nltk = chosen_stop_words("nltk", "en")
    assert nltk is not None
    assert len(nltk) == 153
    assert {"the", "don", "t", "ll", "yourselves", "y"} <= nltk
    assert not {"computer", "system", "information", "state", "world", "work", "copyright", "nltk"} & nltk
    # stopwords-iso drops these content words too, so the two choices train on different targets.
    assert {"computer", "system", "information", "state", "world", "work"} <= stop_words("en")


def test_stop_words_are_a_list_by_name_a_file_or_none(tmp_path: Path) -> None:
    assert chosen_stop_words("iso", "en") == stop_words("en")
    assert chosen_stop_words("none", "en") is None
    own = tmp_path / "own.txt"
    own.write_text("# mine\nRiver  # and stone\ndon't\n\n", encoding="utf-8")
    assert chosen_stop_words(str(own), "en") == {"river", "don", "t"}


@pytest.mark.parametrize("content", [None, b"# nothing\n", b"\xff\xfe"])
def test_a_file_without_stop_words_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"text\.stop_words: .*own\.txt (is neither|holds no word)"):
        chosen_stop_words(str(path), "en")


def test_a_file_of_stop_words_is_identified_by_its_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    for path in (one, two):
        path.write_text("river\n", encoding="utf-8")
    assert stop_words_identity(str(one)) == stop_words_identity(str(two)) != stop_words_identity("iso") == "iso"
    two.write_text("stone\n", encoding="utf-8")
    assert stop_words_identity(str(one)) != stop_words_identity(str(two))


def test_each_extra_that_splits_documents_brings_what_the_error_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(MissingDependencyError) as caught:
        sentence_spans("It hums. It flies.")
    named = re.findall(r"llama2vec\[(\w+)\]", str(caught.value))
    project = Path(__file__).resolve().parents[4] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in {*named, "documents", "model"}:
        assert any(package.startswith("sentencex") for package in extras[extra]), extra

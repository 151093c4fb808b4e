"""When two texts are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama2vec.data.words import (
    chosen_stop_words,
    count_words,
    estimated_words,
    first_words,
    stop_words,
    stop_words_identity,
    text_key,
    word_spans,
)
from llama2vec.errors import ConfigError


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
        ("알파카는 풀을 먹나요?", 3), ("アルパカ", 4), ("ภาษาไทย", 2),
    ],
)  # fmt: skip
def test_words_are_counted_by_space_or_by_sign(text: str, count: int) -> None:
    assert count_words(text) == len(word_spans(text)) == count
    assert first_words(text, 99) == text
    assert count_words(first_words(text, 2)) == min(count, 2)


@pytest.mark.parametrize(
    ("text", "count"), [("who won the race?", 4), ("알파카는 풀을 먹나요?", 3), ("谁赢得了比赛？", 3), ("誰が?", 1)]
)
def test_a_question_has_a_word_for_two_signs(text: str, count: int) -> None:
    assert estimated_words(text) == count


@pytest.mark.parametrize(("first", "second"), [("a b", "ab"), ("cafe", "café"), ("1", "l")])
def test_other_texts_are_not(first: str, second: str) -> None:
    assert text_key(first) != text_key(second)


def test_stop_words_come_from_the_list_of_the_language(caplog: pytest.LogCaptureFixture) -> None:
    assert {"the", "don", "t"} <= stop_words("en")
    assert "river" not in stop_words("en")
    assert stop_words("xx") == frozenset()
    assert "no stop-word list for language 'xx': all words count" in caplog.text


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

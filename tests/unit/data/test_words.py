"""When two texts are the same."""

from __future__ import annotations

import pytest

from llama2vec.data.words import stop_words, text_key


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


@pytest.mark.parametrize(("first", "second"), [("a b", "ab"), ("cafe", "café"), ("1", "l")])
def test_other_texts_are_not(first: str, second: str) -> None:
    assert text_key(first) != text_key(second)


def test_stop_words_come_from_the_list_of_the_language(caplog: pytest.LogCaptureFixture) -> None:
    assert {"the", "don", "t"} <= stop_words("en")
    assert "river" not in stop_words("en")
    assert stop_words("xx") == frozenset()
    assert "no stop-word list for language 'xx': all words count" in caplog.text

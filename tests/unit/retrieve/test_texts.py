"""Texts from Python, in whatever form they come."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.records import Passage
from llama2vec.retrieve.texts import as_passages, snippet

EXPECTED = [Passage("0", "A camelid."), Passage("1", "A river.")]


def test_lists_generators_and_columns_are_read() -> None:
    texts = ["A camelid.", "A river."]
    assert as_passages(texts) == as_passages(iter(texts)) == as_passages(EXPECTED) == EXPECTED
    assert as_passages([{"text": text} for text in texts]) == EXPECTED
    assert as_passages([{"_id": 7, "text": "x", "title": None}]) == [Passage("7", "x")]


def test_a_pandas_column_and_a_data_frame_are_read() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["A camelid.", "A river."], "id": [5, 6]})
    assert as_passages(frame["text"]) == EXPECTED
    assert as_passages(frame) == [Passage("5", "A camelid."), Passage("6", "A river.")]


def test_a_column_and_a_data_set_of_datasets_are_read() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["A camelid.", "A river."]})
    assert as_passages(rows["text"]) == as_passages(rows) == EXPECTED


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("A camelid.", "texts is one str; put it into a list"),
        ({"text": "x"}, "texts is one dict"),
        (["a", None], "the text of text 1 is of type NoneType"),
        ([{"body": "x", "id": 1}], r"text 0 has no 'text' \\(only body, id\\)"),
        ([{"text": ["a"]}], "the text of text 0 is of type list"),
        ([b"bytes"], "is of type bytes"),
        (["a\ud800"], "half a surrogate pair"),
        ([{"id": "x", "text": "a"}, {"id": "x", "text": "b"}], "texts 0 and 1 share the id 'x'"),
        ([{"id": " ", "text": "a"}], "text 0 has an empty id"),
    ],
)
def test_what_is_not_a_text_is_one_line(texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("\\\\", "\\")):
        as_passages(texts)


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(EmptyCorpusError, match="the list of texts is empty"):
        as_passages([])


@pytest.mark.parametrize("width", [1, 2, 20, 60, 240])
@pytest.mark.parametrize("text", ["word " * 100, "x" * 500, "llama. " * 80, "字" * 300, "a llama " + "b " * 200])
def test_a_snippet_is_never_longer_than_asked(text: str, width: int) -> None:
    assert len(snippet(text, "llama word", width).rstrip("…")) <= width
    assert len(snippet(text, "llama", max(width, 3))) <= max(width, 3)


def test_a_snippet_of_a_script_without_spaces_is_cut_between_signs() -> None:
    text = "一 " + "骆驼在沙漠里行走。" * 20 + "羊驼在安第斯山脉背负重物。" + "骆驼在沙漠里行走。" * 20
    part = snippet(text, "安第斯的羊驼", 40)
    assert "羊驼在安第斯山脉" in part
    assert 38 <= len(part) <= 40


def test_a_snippet_prefers_different_words_to_repeated_ones() -> None:
    text = "llama llama llama " + "filler " * 60 + "The llama lives in Peru. " + "filler " * 60
    assert "llama lives in Peru" in snippet(text, "Where does the LLAMA live in peru?", 60)


def test_a_snippet_finds_words_in_another_unicode_form() -> None:
    text = unicodedata.normalize("NFD", "filler " * 60 + "Das Café am Fluß. " + "filler " * 60)
    assert "Café am Fluß" in snippet(text, "ＣＡＦÉ", 60)

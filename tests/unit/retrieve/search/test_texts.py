"""Texts from Python, in whatever form they come."""

from __future__ import annotations

from typing import Any

import pytest

from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.records import Passage
from llama2vec.retrieve.search.texts import as_passages

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


def test_other_scalars_of_a_row_become_fields() -> None:
    rows = [{"id": "a", "text": "x", "year": 2020, "draft": True, "tags": [1], "price": float("nan"), "none": None}]
    assert as_passages(rows) == [Passage("a", "x", fields={"year": 2020, "draft": True})]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["x", "y"], "year": [2020, 2021], "price": [1.5, None]})
    assert [passage.fields for passage in as_passages(frame)] == [{"year": 2020, "price": 1.5}, {"year": 2021}]

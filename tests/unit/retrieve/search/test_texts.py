"""Texts from Python, in whatever form they come."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest

from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.records import Passage, Query
from llama2vec.retrieve.search.texts import as_passages, as_queries

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


def test_what_a_data_frame_lacks_is_missing_and_no_text() -> None:
    pandas = pytest.importorskip("pandas")
    texts = ["A camelid.", "A river.", "A bridge."]
    for none in (None, float("nan"), pandas.NA, pandas.NaT):
        rows = {"text": texts, "id": ["a", none, "c"], "title": ["Llama", none, ""], "year": [2020, none, 1932]}
        first, second, third = as_passages(pandas.DataFrame(rows, dtype=object))
        assert (first, second) == (Passage("a", texts[0], "Llama", fields={"year": 2020}), Passage("1", texts[1]))
        assert third.fields == {"year": 1932}
    # Whole numbers beside a missing one are floats there.
    numbers = pandas.DataFrame({"text": texts, "id": [7, None, 9]})
    assert [one.id for one in as_passages(numbers)] == ["7", "1", "9"]


def test_queries_come_from_any_collection() -> None:
    queries = {"1": Query("1", "river"), "2": Query("2", "bridge")}
    for given in (queries.values(), np.array([*queries.values()], dtype=object), iter([*queries.values()])):
        assert as_queries(given) == [*queries.values()]


def test_fields_of_passages_are_read_as_those_of_rows() -> None:
    given = {"year": np.int64(2020), "share": np.float32(0.5), "draft": np.bool_(True), "author": None, "x": np.nan}
    (passage,) = as_passages([Passage("1", "A camelid.", fields=given)])
    assert passage.fields == {"year": 2020, "share": 0.5, "draft": True}
    assert [type(value) for value in passage.fields.values()] == [int, float, bool]
    assert as_passages([{"text": "A camelid.", "id": "1", **given}]) == [passage]
    # Numbers of numpy equal Python's own, but JSON takes only these.
    (passage,) = as_passages([Passage("1", "A camelid.", fields={"year": np.int64(2020)})])
    assert type(passage.fields["year"]) is int


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (["river"], "query 0 is of type str; give Query objects, such as"),
        ("river", "queries is of type str; give Query objects"),
        (Query("1", "river"), "queries is of type Query; give"),
        ({"1": "river"}, "queries is of type dict; give"),
        (None, "queries is of type NoneType; give"),
        (np.array("river"), "queries is of type ndarray; give"),
        ([Query("1", "river"), Query(2, "bridge")], "the id of query 1 is of type int; give a string"),
        ([Query("1", None)], "the text of query 0 is of type NoneType; give a string"),
    ],
)
def test_what_is_not_a_query_is_one_line(queries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_queries(queries)


def test_a_column_and_a_data_set_of_datasets_are_read() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["A camelid.", "A river."]})
    assert as_passages(rows["text"]) == as_passages(rows) == EXPECTED


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("A camelid.", "texts is one str; put it into a list"),
        (None, "texts is of type NoneType; give a list of strings, rows or passages"),
        (np.array("river"), "texts is of type ndarray; give a list of strings, rows or passages"),
        (Passage("1", "x"), "texts is one Passage; put it into a list"),
        ([Passage("1", "x", fields={"tags": ["a"]})], "the field 'tags' of text 0 is of type list; give a string"),
        ([Passage("1", "x", fields={"day": date(2020, 1, 2)})], "the field 'day' of text 0 is of type date"),
        ([Passage("1", "x", fields={"size": float("inf")})], "the field 'size' of text 0 is inf; give a string, a"),
        ([Passage("1", "x", fields={3: "x"})], "text 0 has the field 3; the name of a field is a string"),
        ([Passage("1", "x", fields=["a"])], "the fields of text 0 are of type list; give a dict"),
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

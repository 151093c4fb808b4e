"""Rows become passages and queries by the names of their fields."""

from __future__ import annotations

import re

import pytest

from llama2vec.data.corpus.parsing import FieldNames, parsed_row, passage_fields, query_fields
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import CorpusFormatError

NAMED = ReadingSettings(text_field="body", id_field="key")


def test_named_fields_take_the_place_of_the_usual_ones_in_passages() -> None:
    assert passage_fields(None) == FieldNames()
    assert passage_fields(ReadingSettings()) == FieldNames(hints=True)
    assert passage_fields(NAMED) == FieldNames(("key",), ("body",), hints=True)


def test_named_fields_come_before_the_usual_ones_in_queries() -> None:
    assert query_fields(NAMED) == FieldNames(("key", "_id", "id"), ("body", "text"), hints=True)
    assert query_fields(None, labeled=True) == FieldNames(texts=("text", "query"), labeled=True)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (FieldNames(), 'a.jsonl:3 has no "text" (only _id, body); put the passage or query there'),
        (FieldNames(hints=True), "put the passage or query there, or name its field (reading.text_field)"),
        (FieldNames(texts=("text", "query")), 'has no "text" or "query" (only _id, body)'),
        (FieldNames(("key",), hints=True), "give each row an id, or name its field (reading.id_field)"),
    ],
)
def test_a_missing_field_is_named_and_settings_only_where_they_are_taken(names: FieldNames, said: str) -> None:
    with pytest.raises(CorpusFormatError, match=re.escape(said)) as caught:
        parsed_row({"_id": "1", "body": "x"}, "a.jsonl:3", names)
    assert names.hints == ("reading." in str(caught.value))

"""A passage survives its line of JSON."""

from __future__ import annotations

import json

import pytest

from llama2vec.data.corpus.rows import passage_line, passage_of, row_fields, row_place
from llama2vec.errors import CorpusFormatError
from llama2vec.records import Passage, Place

PASSAGES = [
    Passage("1", "A camelid.", "Llama"),
    Passage("é\u2028", "\ud800 is half a pair"),
    Passage("g#2", "Feed it.", "Guide › Food", Place("guide.pdf", 10, 18, 3, 4, page=2), {"year": 2020, "new": True}),
]


@pytest.mark.parametrize("passage", PASSAGES, ids=lambda passage: passage.id)
def test_a_passage_survives_its_line(passage: Passage) -> None:
    line = passage_line(passage)
    assert line.count(b"\n") == 1
    assert passage_of(json.loads(line)) == passage


def test_what_a_passage_lacks_is_not_written() -> None:
    assert passage_line(Passage("1", "x")) == b'{"id": "1", "title": "", "text": "x"}\n'
    assert b"page" not in passage_line(Passage("1", "x", place=Place("a.txt", 0, 1, 1, 1)))


def test_other_keys_metadata_and_fields_of_a_row_become_fields() -> None:
    row = {
        "_id": "1", "id": "1", "title": "t", "text": "x", "year": 2020, "tags": ["a"], "none": None,
        "missing": float("nan"),
        "metadata": {"url": "u", "year": 1, "more": {}}, "fields": {"draft": True, "url": "ours"}, "place": "Rome",
    }  # fmt: skip
    assert row_fields(row) == {"url": "ours", "year": 2020, "draft": True}
    assert row_fields({"metadata": "none", "fields": [1]}) == {}


@pytest.mark.parametrize("passage", PASSAGES, ids=lambda passage: passage.id)
def test_a_corpus_gives_back_place_and_fields_of_a_written_row(passage: Passage) -> None:
    row = json.loads(passage_line(passage))
    assert (row_place(row, "c.jsonl:1"), row_fields(row)) == (passage.place, passage.fields)


@pytest.mark.parametrize("place", ["Rome", None, {"city": "Rome"}, {"document": "a", "begin": 0, "end": 1, "x": 1}])
def test_a_place_of_another_form_is_none(place: object) -> None:
    assert row_place({"place": place}, "c.jsonl:1") is None


@pytest.mark.parametrize(("name", "value"), [("document", 3), ("begin", "0"), ("end", True), ("page", 1.5)])
def test_a_faulty_place_is_named_with_its_line(name: str, value: object) -> None:
    place = {"document": "a", "begin": 0, "end": 1, name: value}
    with pytest.raises(CorpusFormatError, match=rf"c\.jsonl:7 has the {name} .* in its place"):
        row_place({"place": place}, "c.jsonl:7")

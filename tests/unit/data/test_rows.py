"""A passage survives its line of JSON."""

from __future__ import annotations

import json

import pytest

from llama2vec.data.rows import passage_line, passage_of
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

"""Documents whose ids coincide: the later one is numbered."""

from __future__ import annotations

from llama2vec.data.corpus.document_ids import DocumentIds, document_groups, numbered
from llama2vec.records import Passage, Place


def parts(document: str, base: str, count: int) -> list[Passage]:
    place = Place(document, 0, 4)
    ids = [f"{base}#{number}" for number in range(1, count + 1)] if count > 1 else [base]
    return [Passage(one, "text", place=place) for one in ids]


def test_a_document_whose_id_is_taken_gets_the_first_free_number() -> None:
    ids, spaced, escaped = DocumentIds(), parts("a b.md", "a%20b.md", 2), parts("a%20b.md", "a%20b.md", 3)
    assert ids.number(spaced) == 1
    assert ids.number(escaped) == 2
    assert [numbered(one, 2).id for one in escaped] == ["a%20b.md@2#1", "a%20b.md@2#2", "a%20b.md@2#3"]
    assert ids.number(spaced) == 3


def test_a_part_and_a_row_of_one_name_are_told_apart() -> None:
    ids = DocumentIds()
    assert ids.number(parts("rows.jsonl#a", "rows.jsonl#a", 2)) == 1
    [row] = parts("rows.jsonl#a#1", "rows.jsonl#a#1", 1)
    assert ids.number([row]) == 2
    assert numbered(row, 2).id == "rows.jsonl#a#1@2"


def test_a_number_that_is_taken_too_is_passed_over() -> None:
    ids = DocumentIds()
    assert ids.take(["a.md", "a.md@2"])
    assert not ids.take(["a.md"])
    assert ids.number(parts("a.md", "a.md", 1)) == 3


def test_passages_come_document_by_document() -> None:
    passages = [*parts("a.md", "a.md", 2), *parts("b.md", "b.md", 1), Passage("row", "text")]
    found = [(document, len(some)) for document, some in document_groups(passages)]
    assert found == [("a.md", 2), ("b.md", 1), ("row", 1)]

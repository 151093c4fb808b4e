"""Texts that come from Python as passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llama2vec.data.corpus.rows import row_fields
from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.records import Passage


def as_passages(texts: Iterable[str | Mapping[str, Any] | Passage]) -> list[Passage]:
    """Return texts as passages.

    Args:
        texts: Strings, passages, or rows with a ``text`` and perhaps ``id`` (or ``_id``) and ``title``; also a pandas
            data frame with such columns. A text without an id has its number as its id. Other texts, numbers and truth
            values of a row become fields, which filters can use.

    Raises:
        DataError: Something is not a text, or two texts have one id.
        EmptyCorpusError: The list is empty.

    >>> camelid, river = as_passages(["A camelid.", {"id": "x", "text": "A river.", "length_km": 6400}])
    >>> camelid.id, river.id, river.fields
    ('0', 'x', {'length_km': 6400})
    """
    if isinstance(texts, str | Mapping):
        raise DataError(f"texts is one {type(texts).__name__}; put it into a list")
    # Iterating over a data frame gives the names of its columns.
    rows: Iterable[Any] = texts.to_dict("records") if hasattr(texts, "to_dict") and hasattr(texts, "columns") else texts
    passages = [_passage(row, number) for number, row in enumerate(rows)]
    if not passages:
        raise EmptyCorpusError("the list of texts is empty; give at least one")
    check_distinct((passage.id for passage in passages), "texts")
    return passages


def check_distinct(ids: Iterable[str], noun: str) -> None:
    """Raise a DataError if two of the ``noun`` (plural) have one id."""
    numbers: dict[str, int] = {}
    for number, one in enumerate(ids):
        if numbers.setdefault(one, number) != number:
            raise DataError(f"{noun} {numbers[one]} and {number} share the id {one!r}; make ids unique")


def _passage(row: Any, number: int) -> Passage:
    """Return one text as a passage, with every field checked."""
    if isinstance(row, Mapping):
        if "text" not in row:
            known = ", ".join(map(str, list(row)[:6]))
            raise DataError(f"text {number} has no 'text' (only {known}); name the field with the text so")
        given = next((row[name] for name in ("_id", "id") if row.get(name) is not None), number)
        title = row.get("title")
        row = Passage(str(given), row["text"], "" if title is None else title, fields=row_fields(row))
    passage = row if isinstance(row, Passage) else Passage(str(number), row)
    for name in ("id", "text", "title"):
        value = getattr(passage, name)
        if not isinstance(value, str):
            problem = f"the {name} of text {number} is of type {type(value).__name__}"
            raise DataError(f"{problem}; give strings, rows with a 'text', or passages")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"the {name} of text {number} holds half a surrogate pair; decode it properly") from None
    if not passage.id.strip():
        raise DataError(f"text {number} has an empty id; give it one, or leave ids out")
    return passage

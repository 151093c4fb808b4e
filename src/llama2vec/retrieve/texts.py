"""Texts that come from Python as passages, and passages that come out as hits, with the part that shows why."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llama2vec.data.words import text_key
from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.records import Passage
from llama2vec.retrieve.lexical import is_sign, word_spans


@dataclass(frozen=True, slots=True)
class Hit:
    """One found passage."""

    rank: int  # 1 is the best
    score: float  # In the unit of the search mode: cosine (dense), BM25, or 0..1 (hybrid)
    passage: Passage  # With title and text


def snippet(text: str, query: str, width: int = 240) -> str:
    """Return the part of a text, at most ``width`` characters, with the most distinct words of the query.

    >>> snippet("Camels carry loads. The llama is a domesticated camelid of the Andes. It hums.", "llama Andes", 50)
    '…llama is a domesticated camelid of the Andes.…'
    >>> snippet("A  short\\ntext.", "llama")
    'A short text.'
    """
    text, query = (unicodedata.normalize("NFC", " ".join(part.split())) for part in (text, query))
    if len(text) <= width:
        return text
    wanted = {text_key(query[first:last]) for first, last in word_spans(query)}
    found = [(first, last, text_key(text[first:last])) for first, last in word_spans(text)]
    matches = [match for match in found if match[2] in wanted]
    room = max(width - 2, 1)  # an ellipsis at both ends
    begin, best = 0, (0, 0)
    for place, (first, _, _) in enumerate(matches):
        inside = [match for match in matches[place : place + room] if match[1] <= first + room]
        richness = (len({word for _, _, word in inside}), len(inside))
        if richness > best:
            best = richness
            spare = room - (inside[-1][1] - first)
            begin = max(0, min(first - spare // 2, len(text) - room))
    return _cut_at_words(text, begin, begin + room)


def _cut_at_words(text: str, begin: int, end: int) -> str:
    """Cut a text to [begin, end), without words that would be cut in two, and mark each cut."""
    part = text[begin:end]
    if end < len(text) and _is_cut(text, end):
        part = part.rpartition(" ")[0] or part
    if begin > 0 and _is_cut(text, begin):
        part = part.partition(" ")[2] or part
    return ("…" if begin > 0 else "") + part.strip() + ("…" if end < len(text) else "")


def _is_cut(text: str, place: int) -> bool:
    """Return whether a position lies inside a word; scripts without spaces may be cut anywhere."""
    return not any(letter.isspace() or is_sign(letter) for letter in text[place - 1 : place + 1])


def as_passages(texts: Iterable[str | Mapping[str, Any] | Passage]) -> list[Passage]:
    """Return texts as passages.

    Args:
        texts: Strings, passages, or rows with a ``text`` and perhaps ``id`` (or ``_id``) and ``title``; also a pandas
            data frame with such columns. A text without an id has its number as its id.

    Raises:
        DataError: Something is not a text, or two texts have one id.
        EmptyCorpusError: The list is empty.

    >>> as_passages(["A camelid.", {"id": "x", "text": "A river.", "title": "Amazon"}])
    [Passage(id='0', text='A camelid.', title=''), Passage(id='x', text='A river.', title='Amazon')]
    """
    if isinstance(texts, str | Mapping):
        raise DataError(f"texts is one {type(texts).__name__}; put it into a list")
    # Iterating over a data frame gives the names of its columns.
    rows: Iterable[Any] = texts.to_dict("records") if hasattr(texts, "to_dict") and hasattr(texts, "columns") else texts
    passages = [_passage(row, number) for number, row in enumerate(rows)]
    if not passages:
        raise EmptyCorpusError("the list of texts is empty; give at least one")
    numbers: dict[str, int] = {}
    for number, passage in enumerate(passages):
        if numbers.setdefault(passage.id, number) != number:
            raise DataError(f"texts {numbers[passage.id]} and {number} share the id {passage.id!r}; make ids unique")
    return passages


def passages_sha256(passages: Iterable[Passage]) -> str:
    """Return a hash of the ids, titles and texts of passages, in their order."""
    total = hashlib.sha256()
    for passage in passages:
        fields = (passage.id, passage.title, passage.text)
        total.update(hashlib.sha256(json.dumps(fields).encode()).digest())
    return total.hexdigest()


def _passage(row: Any, number: int) -> Passage:
    """Return one text as a passage, with every field checked."""
    if isinstance(row, Mapping):
        if "text" not in row:
            known = ", ".join(map(str, list(row)[:6]))
            raise DataError(f"text {number} has no 'text' (only {known}); name the field with the text so")
        given = next((row[name] for name in ("_id", "id") if row.get(name) is not None), number)
        title = row.get("title")
        row = Passage(str(given), row["text"], "" if title is None else title)
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

"""What a search found, and the part of a text that shows why."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from llama2vec.data.text_key import text_key
from llama2vec.records import Passage
from llama2vec.retrieve.words import is_sign, word_spans


@dataclass(frozen=True, slots=True)
class Hit:
    """One found passage.

    Attributes:
        rank: 1 is the best.
        score: In the unit of the search mode: cosine (dense), BM25, or 0..1 (hybrid).
        passage: With title and text.
    """

    rank: int
    score: float
    passage: Passage


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
    """Tell whether a word goes on at a place; scripts without spaces may be cut anywhere."""
    return not any(letter.isspace() or is_sign(letter) for letter in text[place - 1 : place + 1])

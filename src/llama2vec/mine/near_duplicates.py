"""Tell texts that are the same, or nearly, whatever their ids say."""

from __future__ import annotations

import re

from llama2vec.retrieve.words import SIGNS

_SHINGLE_WORDS = 5
# Scripts that are written without spaces: each kana, Han or Hangul sign counts as a word.
_WORD = re.compile(f"[{SIGNS}]|[^\\W{SIGNS}]+")


def shingles(text: str) -> frozenset[int]:
    """Return the hashes of a text's word 5-grams, of all its words where they are fewer; equal within one process.

    >>> len(shingles("one two three four five six, SIX")), len(shingles("one two")), len(shingles(""))
    (3, 1, 0)
    """
    words = _WORD.findall(text.casefold())
    if not words:
        return frozenset()
    width = min(_SHINGLE_WORDS, len(words))
    return frozenset(map(hash, zip(*(words[start:] for start in range(width)), strict=False)))


def containment(first: frozenset[int], second: frozenset[int]) -> float:
    """Return the share of the smaller set that the other has too, 0..1 (Broder 1997, containment of shingles).

    Never below the Jaccard similarity, and near 1 also where one text is the other with something added or cut off.

    >>> containment(frozenset({1, 2}), frozenset({2, 3, 4, 5}))
    0.5
    """
    smaller = min(len(first), len(second))
    return len(first & second) / smaller if smaller else 0.0

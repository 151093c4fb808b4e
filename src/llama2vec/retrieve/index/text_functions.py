"""What filters do with texts, in every alphabet: SQLite's own functions know upper and lower case of A to Z only."""

from __future__ import annotations

import re
import sqlite3
import sys
from functools import lru_cache

from llama2vec.retrieve.index.field_table import composed

_LONGEST_PATTERN = 1000  # Bytes, as for SQLite's own `glob`
RAISED = "user-defined function raised exception"
"""SQLite's message for an error of a function; :attr:`TextFunctions.fault` says which."""

_Value = str | int | float | bytes | None


class TextFunctions:
    """``lower``, ``upper``, ``like``, ``~`` (``match``) and the collation ``nocase``, for one connection.

    Args:
        connection: Keeps its other functions.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.fault = ""  # Why the last call failed
        connection.create_function("lower", 1, _lower, deterministic=True)
        connection.create_function("upper", 1, _upper, deterministic=True)
        connection.create_function("match", 2, _contains, deterministic=True)
        connection.create_function("like", 2, self._like, deterministic=True)
        connection.create_function("like", 3, self._like, deterministic=True)
        connection.create_collation("nocase", _order)

    def _like(self, pattern: _Value, text: _Value, escape: _Value = "") -> bool | None:
        if pattern is None or text is None or escape is None:
            return None
        try:
            return _Pattern.of(str(pattern), str(escape)).matches(str(text))
        except ValueError as error:
            self.fault = str(error)
            raise


class _Pattern:
    """A pattern of ``like``: ``%`` stands for any text, ``_`` for one letter.

    The parts between ``%`` are found from left to right, each at its first place: the time grows with the text's length
    times the pattern's, for any pattern.
    """

    def __init__(self, pattern: str, escape: str) -> None:
        parts, letters = [""], [0]
        marks = iter(pattern)
        for mark in marks:
            if mark == "%" and mark != escape:
                parts.append("")
                letters.append(0)
                continue
            is_any = mark == "_" and mark != escape
            literal = next(marks, "") if mark == escape else mark
            parts[-1] += "." if is_any else re.escape(_letters(literal))
            letters[-1] += 1
        self._parts = [re.compile(part, re.DOTALL) for part in parts]
        self._last = letters[-1]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(pattern: str, escape: str) -> _Pattern:
        """Return a pattern; a ValueError where it is too long, or ``escape`` is more than one letter."""
        if len(pattern.encode()) > _LONGEST_PATTERN:
            raise ValueError("LIKE or GLOB pattern too complex")
        if len(escape) > 1:
            raise ValueError("ESCAPE expression must be a single character")
        return _Pattern(pattern, escape)

    def matches(self, text: str) -> bool:
        """Tell whether a text is as the pattern says, in any case."""
        text = _letters(text)
        if len(self._parts) == 1:
            return self._parts[0].fullmatch(text) is not None
        first, *between, last = self._parts
        found = first.match(text)
        for part in between:
            found = found and part.search(text, found.end())
        begin = len(text) - self._last
        return found is not None and begin >= found.end() and last.fullmatch(text, begin) is not None


@lru_cache(maxsize=1024)
def _letters(text: str) -> str:
    """Return a text in which upper and lower case are the same, with as many letters: one stands for ß, too."""
    folded = text.casefold()
    if len(folded) == len(text):
        return folded
    letters, stand_ins = _unfolding()
    for letter in set(letters.findall(text)):
        text = text.replace(letter, stand_ins[letter])
    return text.casefold()


@lru_cache(maxsize=1)
def _unfolding() -> tuple[re.Pattern[str], dict[str, str]]:
    """Return what finds the letters that upper and lower case make several, such as ß, and what stands for each.

    Half surrogate pairs stand for them: these have no case, and no text of SQLite's has them.
    """
    lower = {letter: letter.lower() for letter in map(chr, range(sys.maxunicode + 1)) if len(letter.casefold()) > 1}
    kept = {letter: one if len(one) == 1 else letter for letter, one in lower.items()}
    stand_ins = {one: chr(0xD800 + number) for number, one in enumerate(sorted(set(kept.values())))}
    return re.compile(f"[{''.join(kept)}]"), {letter: stand_ins[one] for letter, one in kept.items()}


def _lower(text: _Value) -> str | None:
    return None if text is None else composed(str(text).lower())


def _upper(text: _Value) -> str | None:
    return None if text is None else composed(str(text).upper())


def _contains(part: _Value, text: _Value) -> bool | None:
    """Tell whether a text contains another one, in any case; None where one is missing."""
    return None if part is None or text is None else _folded(str(part)) in _folded(str(text))


def _order(first: str, second: str) -> int:
    first, second = _folded(first), _folded(second)
    return (first > second) - (first < second)


@lru_cache(maxsize=1024)
def _folded(text: str) -> str:
    return composed(text).casefold()

"""The Markdown of tables that fit a page; loads no model and no results."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of texts that are Markdown already; the first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def transposed(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return rows as columns: a table of few rows and many columns is wider than a page.

    >>> transposed([["", "a", "b"], ["x", "1", "2"]])
    [['', 'x'], ['a', '1'], ['b', '2']]
    """
    return [list(column) for column in zip(*rows, strict=True)]


def columns(rows: Sequence[Sequence[str]], places: Sequence[int], *, labels: int = 1) -> list[list[str]]:
    """Return the first ``labels`` columns and those of ``places``; a row without any value in the latter is dropped.

    >>> columns([["", "a", "b"], ["x", "1", "2"], ["y", "3", "–"]], [2])
    [['', 'b'], ['x', '2']]
    """
    chosen = [(list(row[:labels]), [row[place] for place in places]) for row in rows]
    return [head + values for head, values in chosen if set(values) != {ABSENT}]


ABSENT = "–"
"""The cell of a value that is not there."""


def spaced(score: str, interval: str) -> str:
    """Return a cell with the interval on a line of its own, so that a column is as narrow as the interval.

    >>> spaced("0.500", "[0.400, 0.600]")
    '0.500<br>[0.400, 0.600]'
    """
    return f"{score}<br>{interval}" if interval else score

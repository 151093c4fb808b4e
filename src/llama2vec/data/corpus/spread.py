"""Which rows of a source a limit takes: evenly spaced ones, because sources are often sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from llama2vec.data.corpus.sources import is_remote

RowT = TypeVar("RowT")
_LONGEST_RUN = 16
"""Rows that belong together and are taken in a row; then others have their turn."""


def is_spread(number: int, most: int, total: int) -> bool:
    """Tell whether a row is one of ``most`` of ``total`` that lie evenly over a source; ``most`` 0 = all.

    >>> [number for number in range(10) if is_spread(number, 4, 10)]
    [0, 2, 5, 7]
    """
    if not most or most >= total:
        return True
    place = -(-number * most // total)  # The first whose row does not come before this one
    return place < most and place * total // most == number


def spread(
    rows: Iterable[RowT], most: int, total: int, goes_on: Callable[[RowT, RowT], bool] | None = None
) -> Iterator[RowT]:
    """Yield ``most`` of ``total`` rows that lie evenly over their source, and read no further than the last one.

    Args:
        rows: All rows, in order.
        most: How many are taken; 0 = all.
        total: How many there are.
        goes_on: Tells whether a row belongs to the one before it. Such rows are taken together, up to 16 in a row;
            None = each for itself, as by :func:`is_spread`.

    >>> list(spread("abcdefghij", 4, 10))
    ['a', 'c', 'f', 'h']
    >>> list(spread(["a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"], 4, 8, lambda one, two: one[0] == two[0]))
    ['a1', 'a2', 'c1', 'c2']
    """
    if not most or most >= total:
        yield from rows
        return
    taken = run = 0
    before: RowT | None = None
    for number, row in enumerate(rows):
        begins = goes_on is None or before is None or not goes_on(before, row)
        before = row
        late = number - taken * total // most  # Rows that are taken together come early; the next ones wait longer
        is_due = late >= 0 and (begins or late >= _LONGEST_RUN)  # A run begins with its document, if that is near
        if not (is_due or (0 < run < _LONGEST_RUN and not begins)) and most - taken < total - number:
            run = 0
            continue
        yield row
        taken, run = taken + 1, 1 if begins else run + 1
        if taken == most:
            return


def spread_mark(limit: int, sources: Iterable[str]) -> Mapping[str, str]:
    """Return what a plan says of the rows that a limit takes; empty where it takes the first ones, or all.

    Earlier versions took the first rows everywhere. The mark tells their unfinished work from that with other rows.

    >>> spread_mark(10, ["rows.jsonl", "hf:name"]), spread_mark(0, ["rows.jsonl"]), spread_mark(10, ["hf:name"])
    ({'rows': 'spread over the source'}, {}, {})
    """
    return {"rows": "spread over the source"} if limit and any(one and not is_remote(one) for one in sources) else {}

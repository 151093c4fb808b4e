"""Sides of a comparison take turns, so that a drift of the machine's speed cancels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

SideT = TypeVar("SideT")


def in_turns(sides: Iterable[SideT], repetitions: int) -> Iterator[tuple[int, SideT]]:
    """Yield (turn, side), turns counted from 1, with the order of the sides reversed every other turn.

    >>> list(in_turns("ab", 2))
    [(1, 'a'), (1, 'b'), (2, 'b'), (2, 'a')]
    """
    forwards = list(sides)
    for turn in range(1, repetitions + 1):
        yield from ((turn, side) for side in (forwards if turn % 2 else reversed(forwards)))


def rounded(value: float) -> float:
    """Return four digits."""
    return float(f"{value:.4g}")

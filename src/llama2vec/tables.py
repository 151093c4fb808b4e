"""Tables as wide as the terminal; without one, each row is a single full line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

from llama2vec.terminal import folded, printable_line, width_of, wrapped

_GAP, _LEAST_NAME, _ABSENT = "  ", 24, ("", "–")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, its interval, and whether it is the best of its column."""

    text: str
    interval: str = ""
    best: bool = False


Rows = Sequence[Sequence[str | Cell]]
"""The first row is the head."""
_Cells = Sequence[Sequence[Cell]]


def shortened(names: Sequence[str], width: int) -> list[str] | None:
    """Return names of at most ``width`` columns, longer ones with "…" in the middle; None where two would look alike.

    >>> shortened(["runs/first/model-a", "runs/second/model-a"], 12)
    ['runs/f…del-a', 'runs/s…del-a']
    """
    for tail in sorted(range(1, width - 1), key=lambda tail: abs(2 * tail - width + 2)):
        cut = [
            f"{_begin(name, width - 1 - tail)}…{_begin(name[::-1], tail)[::-1]}" if width_of(name) > width else name
            for name in names
        ]
        if len(set(cut)) == len(set(names)):
            return cut
    return None


def _begin(text: str, width: int) -> str:
    ends = accumulate(map(width_of, text))
    return text[: sum(end <= width for end in ends)]


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a text with spaces up to a width, before it with ``right``."""
    space = " " * (width - width_of(text))
    return f"{space}{text}" if right else f"{text}{space}"


def _clean(cell: str | Cell) -> Cell:
    """Return a cell that stays on its line, whatever its text."""
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    return Cell(printable_line(cell.text), cell.interval)


def _drawn(cells: Sequence[Cell], *, right: bool, stacked: bool) -> list[tuple[str, str]]:
    """Return for each cell of a column its line and, if stacked, the interval below it, all of one width."""
    value, interval = max(width_of(one.text) for one in cells), max(width_of(one.interval) for one in cells)
    if stacked or not interval:
        most = max(value, interval)
        return [(padded(one.text, most, right=right), padded(one.interval, most, right=right)) for one in cells]
    return [(padded(one.text, value, right=right) + padded(f" {one.interval}", 1 + interval), "") for one in cells]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows whose first column names them; the others hold numbers, right-aligned, or texts.

    Where the columns do not fit, intervals go below their values, then texts below their row, the last ones first, then
    long names are shortened; where even that is too wide, each row becomes a block with a line for each column.
    """

    rows: Rows
    title: str = ""
    note: str = ""
    texts: Sequence[str] = ()  # Heads of the columns that hold text

    def lines(self, width: int | None) -> list[str]:
        """Return title, head, rows and note in lines of at most ``width`` columns; None = a full line for each."""
        rows = [[_clean(cell) for cell in row] for row in self.rows]
        title, note = (wrapped(text, width) if text else [] for text in (self.title, self.note))
        grid = self._grid(rows, width or sys.maxsize)
        return [*title, *(grid or self._blocks(rows, width or 0)), *([] if grid else [""]), *note]

    def _grid(self, rows: _Cells, width: int) -> list[str]:
        """Return the rows below each other in the first form that fits; nothing if none does."""
        every = range(len(rows[0]))
        texts = [place for place in every if rows[0][place].text in self.texts]
        forms = [(False, []), *((True, texts[kept:]) for kept in range(len(texts), -1, -1))]
        for short, (stacked, below) in product((False, True), forms):
            kept = [([row[place] for row in rows], place not in (0, *texts)) for place in every if place not in below]
            columns = [_drawn(cells, right=right, stacked=stacked) for cells, right in kept]
            names = [row[0].text for row in rows]
            room = width - sum(len(_GAP) + width_of(one[0][0]) for one in columns[1:])
            if short and room >= _LEAST_NAME and not any(" " in name for name in names if width_of(name) > room):
                names = shortened(names, room) or names
                columns[0] = _drawn([*map(Cell, names)], right=False, stacked=stacked)
            if width_of(columns[0][0][0]) > room:
                continue
            lines: list[str] = []
            for row, parts in zip(rows, zip(*columns, strict=True), strict=True):
                lines += [line for half in zip(*parts, strict=True) if (line := _GAP.join(half).rstrip())]
                if row is not rows[0]:
                    lines += self._labeled(rows, row, below, width)
                elif width < sys.maxsize:
                    lines.append("─" * width_of(_GAP.join(part[0] for part in parts)))
            return lines
        return []

    def _blocks(self, rows: _Cells, width: int) -> list[str]:
        """Return the name of each row, and a line for each of its other cells."""
        long = list(dict.fromkeys(one for row in rows for one in row[0].text.split(" ") if width_of(one) > width))
        short = dict(zip(long, shortened(long, width) or long, strict=True))
        lines: list[str] = []
        for row in rows[1:]:
            name = " ".join(short.get(word, word) for word in row[0].text.split(" "))
            labeled = self._labeled(rows, row, range(1, len(row)), width)
            lines += [*([""] if lines else []), *wrapped(name, width), *labeled]
        return lines

    def _labeled(self, rows: _Cells, row: Sequence[Cell], places: Sequence[int], width: int) -> Iterator[str]:
        """Yield a line for each of some cells, below the name of their row."""
        numbers = [place for place in places if rows[0][place].text not in self.texts]
        label = max((width_of(rows[0][place].text) for place in places), default=0)
        value = max((width_of(one[place].text) for one in rows[1:] for place in numbers), default=0)
        for place in places:
            head, cell = rows[0][place].text, row[place]
            if cell.text in _ABSENT:
                continue
            line = f"{_GAP}{padded(head, label)}{_GAP}"
            if head in self.texts:
                yield from folded(line + cell.text, width, at="/")
                continue
            line += padded(cell.text, value, right=True)
            beside, below = f"{line} {cell.interval}".rstrip(), padded(cell.interval, width_of(line), right=True)
            yield from [beside] if width_of(beside) <= width else [line, below]

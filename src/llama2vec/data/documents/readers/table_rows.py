"""The rows of a table → documents: the longest columns begin the text, the others end it and are fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.values import Column, labeled, mentioned, shown
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.words import estimated_words
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

TITLES = ("title", "name", "subject", "heading", "headline", "question", "label")
"""Names of columns and fields that hold a title, the likeliest first."""
MOST_ROWS, MOST_COLUMNS = 2**20, 2**14
"""Those of the largest sheet that Excel writes."""
_SAMPLE = 200
"""Rows that decide which columns are text."""
_TEXT_WORDS = 5
"""A column whose cells have at least this many words on average is text."""
_MOST_HEADER_CHARACTERS = 80
_MOST_ABOVE = 10
"""Rows that may stand above the names of the columns, such as a title."""
_NUMBER = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,3})?")
_YEAR = re.compile(r"(?:18|19|20)\d\d")
_DIGITS = re.compile(r"[\W_]*\d[\W\d_]*")
"""A number, date or amount in any notation."""


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: dict[
        int, Value
    ]  # Column → what it holds; only those that are not blank, since a sheet may be wide and empty


@dataclass(frozen=True)
class _Columns:
    names: list[str]
    texts: list[int]  # Which columns are the text
    title: int | None
    id: int | None
    values: dict[int, Column]
    are_given: bool = False  # The settings name the texts


def row_documents(
    rows: Iterable[tuple[int, Sequence[Value]]],
    name: str,
    settings: ReadingSettings,
    fields: Mapping[str, Value] | None = None,
    comments: Mapping[int, Sequence[str]] | None = None,
) -> Iterator[Document]:
    """Yield the documents of a table's rows that are not blank.

    Args:
        rows: (line, cells) of each.
        name: What the ids begin with.
        settings: Which columns are what.
        fields: Those of all rows, unless a column has their name; given for the sheets of a workbook alone.
        comments: Those of each line, complete once the rows are read; they end the text of their row, or are a
            document of their own where their line is blank or above the rows.
    """
    found, sample, fault = _collected(rows)
    left, fields = dict(comments or {}), fields or {}
    if found:
        above, names = _header(found, sample, is_sheet=bool(fields))
        if above:
            lines = (" ".join(map(shown, row.cells.values())) for row in found[:above])
            yield _note(name, found[0].line, "\n".join(lines), fields)
        begin = above + bool(names)
        names = names or [f"column {number}" for number in range(1, max(map(len, sample)) + 1)]
        columns = _columns(names, found[begin:], settings)
        seen: set[str] = set()
        for row in found[begin:]:
            row_id = shown(row.cells.get(columns.id, "")) if columns.id is not None else ""
            key = row_id if row_id and row_id not in seen else str(row.line)
            seen.add(key)
            yield _document(f"{name}#{key}", row, columns, fields, left.pop(row.line, ()))
    for line, texts in sorted(left.items()):
        yield _note(name, line, "\n".join(texts), fields)
    if fault is not None:
        raise fault


def _collected(
    rows: Iterable[tuple[int, Sequence[Value]]],
) -> tuple[list[_Row], list[Sequence[str]], Exception | None]:
    """Return the rows that are not blank, the first ones also as texts, and the fault that ended them."""
    found: list[_Row] = []
    sample: list[Sequence[str]] = []
    try:
        for line, cells in rows:
            stripped = (cell.strip() if isinstance(cell, str) else cell for cell in cells)
            filled = {column: cell for column, cell in enumerate(stripped) if cell != ""}
            if filled:
                found.append(_Row(line, filled))
                if len(sample) < _SAMPLE:
                    sample.append([shown(cell) for cell in cells])
    except Exception as error:
        if len(found) < _SAMPLE:
            raise
        return found, sample, error  # The rows before it are whole
    return found, sample, None


def _note(name: str, line: int, text: str, fields: Mapping[str, Value]) -> Document:
    return Document(f"{name}#{line}", text, lines="row", first_line=line, fields=dict(fields))


def _document(
    row_id: str, row: _Row, columns: _Columns, fields: Mapping[str, Value], comments: Sequence[str]
) -> Document:
    cells = dict(row.cells)
    title = " ".join(shown(cells.pop(columns.title, "")).split()) if columns.title is not None else ""
    texts = [shown(cells.pop(column)) for column in columns.texts if column in cells]
    others = {_name(columns.names, column): (column, cell) for column, cell in cells.items()}
    if not columns.are_given:
        # What the other columns say is worth finding, too.
        cells_by_name = {key: cell for key, (_, cell) in others.items()}
        said = mentioned(cells_by_name, without=(title, *texts)) if texts else labeled(cells_by_name, without=(title,))
        texts += [said] if said else []
    own = {key: columns.values[column].value(cell) for key, (column, cell) in others.items()}
    taken = {key.lower() for key in own}  # Filters do not tell upper from lower case
    values = {key: value for key, value in fields.items() if key.lower() not in taken} | own
    return Document(row_id, "\n".join([*texts, *comments]), title, lines="row", first_line=row.line, fields=values)


def _name(names: Sequence[str], column: int) -> str:
    return names[column] if column < len(names) and names[column] else f"column {column + 1}"


def _header(found: Sequence[_Row], sample: Sequence[Sequence[str]], *, is_sheet: bool) -> tuple[int, list[str]]:
    """Return how many rows stand above the one that names the columns, and the names; 0 and none where none does."""
    first = _names(sample)
    filled = [len(row.cells) for row in found[: len(sample)]]
    for place in range(1, min(_MOST_ABOVE + 1, len(sample) - 1)):
        widest, own = max(filled[:place]), filled[place]
        if own <= widest or own < max(2, median_low(filled[place + 1 : place + 20])):
            continue
        is_apart = not first and 2 * filled[0] <= own
        if (is_apart or _stands_out(found, sample, place, is_sheet=is_sheet)) and (names := _names(sample[place:])):
            return place, names
    return 0, first


def _stands_out(found: Sequence[_Row], sample: Sequence[Sequence[str]], place: int, *, is_sheet: bool) -> bool:
    """Tell whether a row differs from those above and below it as the names of columns do."""
    before = found[place - 1]
    if found[place].line - before.line > 1 + sum(shown(cell).count("\n") for cell in before.cells.values()):
        return True  # Below a blank row
    # A line of a file without delimiters stands outside the table; a row of a sheet just ends at its last cell.
    if not is_sheet and {len(row) for row in sample[:place]} == {1} and len({len(row) for row in sample[place:]}) == 1:
        return True
    above = {column for row in found[:place] for column in row.cells}
    for column, cell in found[place].cells.items():
        below = [shown(row.cells[column]) for row in found[place + 1 : len(sample)] if column in row.cells]
        if column not in above and below and _differs(shown(cell), below):
            return True
    return False


def _differs(cell: str, below: Sequence[str]) -> bool:
    """Tell whether a cell is a word above numbers, or a few above texts."""
    if not any(map(str.isdigit, cell)) and all(map(_DIGITS.fullmatch, below)):
        return True
    is_short = estimated_words(cell) < _TEXT_WORDS - 1 and not cell.endswith((".", "!"))
    return is_short and len(below) > 1 and min(map(estimated_words, below)) >= _TEXT_WORDS


def _names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the first row where it names the columns, else nothing; names that repeat are numbered."""
    names = [" ".join(cell.split()) for cell in rows[0]]
    filled = [name.lower() for name in names if name]
    width = max((len([cell for cell in row if cell.strip()]) for row in rows[1:20]), default=0)
    if len(rows) < 2 or 2 * len(filled) < width:
        return []
    for column, name in enumerate(names):
        below = [row[column].strip() for row in rows[1:] if column < len(row) and row[column].strip()]
        if not _is_name(name, below, is_repeated=filled.count(name.lower()) > 1):
            return []
    used: set[str] = set()
    for column, name in enumerate(names):
        number = 1
        while name and names[column].lower() in used:
            number += 1
            names[column] = f"{name} {number}"
        used.add(names[column].lower())
    return names


def _is_name(cell: str, below: Sequence[str], *, is_repeated: bool) -> bool:
    """Tell whether a cell of the first row can be the name of the cells below, and is not one of them."""
    if _NUMBER.fullmatch(cell):
        return _YEAR.fullmatch(cell) is not None and not (below and all(map(_YEAR.fullmatch, below)))
    if is_repeated and cell.lower() in map(str.lower, below):
        return False
    if len(cell) <= _MOST_HEADER_CHARACTERS:
        return True
    # A long question, or a text over short ones
    is_question = cell.endswith("?") and not any(one.endswith("?") for one in below)
    return is_question or 2 * max(map(len, below), default=0) <= len(cell)


def _columns(names: list[str], rows: Sequence[_Row], settings: ReadingSettings) -> _Columns:
    lower = [name.lower() for name in names]
    words = [
        _words(shown(row.cells[column]) for row in rows[:_SAMPLE] if column in row.cells)
        for column in range(len(names))
    ]
    values: dict[int, Column] = {}
    for row in rows:
        for column, cell in row.cells.items():
            values.setdefault(column, Column()).add(cell)
    row_id = _wanted(names, settings.id_field) if settings.id_field else None
    titles = (settings.title_field,) if settings.title_field else TITLES
    title = next((lower.index(one.lower()) for one in titles if one.lower() in lower), None)
    if settings.text_columns or settings.text_field:
        wanted = settings.text_columns or (settings.text_field,)
        texts = [_wanted(names, one) for one in wanted]
        return _Columns(names, texts, None if title in texts else title, row_id, values, are_given=True)
    texts = [column for column, count in enumerate(words) if count >= _TEXT_WORDS and column != title]
    if not texts and title is not None and words[title] >= _TEXT_WORDS:
        texts, title = [title], None
    return _Columns(names, texts, title if texts else None, row_id, values)


def _words(cells: Iterable[str]) -> float:
    counts = [estimated_words(cell) for cell in cells]
    return sum(counts) / len(counts) if counts else 0.0


def _wanted(names: Sequence[str], name: str) -> int:
    lower = [one.lower() for one in names]
    if name.lower() not in lower:
        known = ", ".join(one for one in names[:6] if one)
        raise UnreadableError(f"has no column {name} (its columns: {known})")
    return lower.index(name.lower())

"""CSV, TSV, XLSX: a row is a document; the columns with the longest texts are its text, the others its fields."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.archives import open_zip, zip_bytes
from llama2vec.data.readers.building import Fault
from llama2vec.data.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.words import estimated_words
from llama2vec.errors import UnreadableError
from llama2vec.records import Value
from llama2vec.terminal import counted

TITLES = ("title", "name", "subject", "heading", "headline", "question", "label")
"""Names of columns and fields that hold a title, the likeliest first."""
_SAMPLE = 200
"""Rows that decide which columns are text."""
_TEXT_WORDS = 5
"""A column whose cells have at least this many words on average is text."""
_MOST_HEADER_CHARACTERS = 80
MOST_ROWS = 2**20
"""Rows of the longest sheet that Excel writes."""
_BLANK_FORMULA = re.compile(
    rb"""<(?:\w{1,9}:)?c(?![^>]*\bt=["']str["'])(?:\s[^>]*)?>\s*<(?:\w{1,9}:)?f\b[^>]*(?:/>|>[^<]*</(?:\w{1,9}:)?f>)\s*"""
    rb"""(?:<(?:\w{1,9}:)?v\s*/>|<(?:\w{1,9}:)?v>\s*</(?:\w{1,9}:)?v>)?\s*</(?:\w{1,9}:)?c>"""
)
"""A cell with a formula and no value; one of the type ``str`` has an empty text."""
_YEAR = re.compile(r"(?:18|19|20)\d\d")
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""The first line with which Excel writes its delimiter."""
_QUOTED = re.compile(r'(?:^|(?<=[,;\t|]))"(?:[^"]|"")*+"(?=[,;\t|]|$)', re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,3})?")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document | Fault]:
    """Yield the rows ``FILE#LINE``, or ``FILE!SHEET#LINE`` of a workbook."""
    if name.lower().endswith((".xlsx", ".xlsm")):
        with open_zip(data, settings) as opened:
            blank = _count_blank_formulas(opened)
        yield from _workbook(data, name, settings)
        if blank:
            reason = f"{counted(blank, 'formula')} without a value; open and save it in a spreadsheet program"
            yield Fault("", reason)
        return
    text = decoded(data, settings.encoding)
    yield from row_documents(_rows(text, name), name, settings)


def _rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row that is not blank."""
    lines = text.split("\n")
    if mark := _SEPARATOR.fullmatch(lines[0]):
        delimiter = mark[1]
    else:
        delimiter = "\t" if name.lower().endswith((".tsv", ".tab")) else _delimiter(text)
    # csv's own limit on a cell is 128 KiB; that of the file is enough.
    csv.field_size_limit(2**31 - 1)
    begin, width = int(mark is not None), 0
    while begin < len(lines):
        reader = _reader(lines, begin, delimiter, strict=True)
        first = begin
        try:
            for cells in reader:
                end = first + reader.line_num
                width = width or len(cells)
                if delimiter == "\t" and _swallows(lines[begin:end], delimiter, width):
                    break
                if any(cell.strip() for cell in cells):
                    yield begin + 1, cells
                begin = end
            else:
                return
        except csv.Error:  # A quote that nothing ends, or with more after its end
            end = first + reader.line_num
        cells, used = _repaired(lines, begin, end, delimiter, width)
        if any(cell.strip() for cell in cells):
            yield begin + 1, cells
        begin += used


def _reader(lines: Sequence[str], begin: int, delimiter: str, *, strict: bool) -> Any:
    return csv.reader((f"{lines[number]}\n" for number in range(begin, len(lines))), delimiter=delimiter, strict=strict)


def _repaired(lines: Sequence[str], begin: int, end: int, delimiter: str, width: int) -> tuple[list[str], int]:
    """Return the cells of a row whose quotes are faulty from the lines up to ``end``, and how many lines it takes."""
    if _swallows(lines[begin:end], delimiter, width):
        plain = lines[begin].split(delimiter)
        return (plain if len(plain) == width else next(csv.reader([lines[begin]], delimiter=delimiter))), 1
    reader = _reader(lines, begin, delimiter, strict=False)
    return next(reader), reader.line_num


def _swallows(lines: Sequence[str], delimiter: str, width: int) -> bool:
    """Tell whether the lines that a quote joins to the first one are rows of their own, by the number of cells."""
    width = width or lines[0].count(delimiter) + 1
    joined = [cells for cells in csv.reader(lines[1:], delimiter=delimiter) if cells]
    return width > 1 and bool(joined) and all(len(cells) == width for cells in joined)


def _delimiter(text: str) -> str:
    """Return which of the usual delimiters divides the first lines, and most evenly, outside quotes."""
    sample = _QUOTED.sub("", text[: 2**16])
    lines = [line for line in sample.split("\n")[:20] if line.strip()]

    def merit(mark: str) -> tuple[bool, bool, int]:
        counts = [line.count(mark) for line in lines]
        divides = min(counts, default=0) > 0
        return divides, divides and len(set(counts)) == 1, sum(counts)

    return max(",;\t|", key=merit)


def _workbook(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    import openpyxl

    opened = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    try:
        for sheet in opened.worksheets:
            # Without the size that the sheet claims: one cell may claim a million rows of 16,384 columns.
            sheet.reset_dimensions()
            rows = enumerate(islice(sheet.iter_rows(values_only=True), MOST_ROWS), start=1)
            shown = ((line, [_shown(cell) for cell in cells]) for line, cells in rows)
            filled = ((line, cells) for line, cells in shown if any(cell.strip() for cell in cells))
            yield from row_documents(filled, f"{name}!{sheet.title}", settings, {"sheet": sheet.title})
    finally:
        opened.close()


def _count_blank_formulas(opened: zipfile.ZipFile) -> int:
    """Return how many formulas have no value, as programs other than spreadsheets write them."""
    sheets = (name for name in opened.namelist() if name.startswith("xl/worksheets/") and name.endswith(".xml"))
    return sum(len(_BLANK_FORMULA.findall(zip_bytes(opened, name))) for name in sheets)


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    text = str(cell)
    # A date has a time only where the cell has one.
    return text.removesuffix(" 00:00:00") if hasattr(cell, "year") else text


@dataclass(frozen=True)
class _Columns:
    names: list[str]
    texts: list[int]  # Which columns are the text
    title: int | None
    id: int | None
    are_given: bool = False  # The settings name the texts


def row_documents(
    rows: Iterable[tuple[int, list[str]]], name: str, settings: ReadingSettings, fields: dict[str, Value] | None = None
) -> Iterator[Document]:
    """Yield the documents of a table's rows that are not blank, given as (line, cells); ``fields`` are those of all."""
    rows = iter(rows)
    sample = list(islice(rows, _SAMPLE))
    if not sample:
        return
    names = _header([cells for _, cells in sample])
    if names:
        sample = sample[1:]
    else:
        names = [f"column {number}" for number in range(1, max(len(cells) for _, cells in sample) + 1)]
    columns = _columns(names, [cells for _, cells in sample], settings)
    seen: set[str] = set()
    for line, cells in chain(sample, rows):
        row_id = cells[columns.id].strip() if columns.id is not None and columns.id < len(cells) else ""
        key = row_id if row_id and row_id not in seen else str(line)
        seen.add(key)
        yield _document(f"{name}#{key}", line, cells, columns, fields or {})


def _document(row_id: str, line: int, cells: Sequence[str], columns: _Columns, fields: dict[str, Value]) -> Document:
    named = {column: cell.strip() for column, cell in enumerate(cells) if cell.strip()}
    title = " ".join(named.pop(columns.title, "").split()) if columns.title is not None else ""
    texts = [named.pop(column) for column in columns.texts if column in named]
    others = {_name(columns.names, column): cell for column, cell in named.items()}
    # A table without text columns, or a row with none of its texts: all that it says is short, and worth finding.
    is_short = not columns.texts or not (texts or title or columns.are_given)
    text = "; ".join(f"{key}: {value}" for key, value in others.items()) if is_short else "\n".join(texts)
    values = fields | {key: typed(value) for key, value in others.items()}
    return Document(row_id, text, title, lines="row", first_line=line, fields=values)


def _name(names: Sequence[str], column: int) -> str:
    return names[column] if column < len(names) and names[column] else f"column {column + 1}"


def typed(value: str) -> Value:
    """Return a cell as a number where it is one, without leading zeros, else as it is.

    >>> typed("12"), typed("1.50"), typed("007"), typed("2020-01-01"), typed("1e999")
    (12, 1.5, '007', '2020-01-01', '1e999')
    """
    if not _NUMBER.fullmatch(value) or (
        value.lstrip("-+").startswith("0") and value.lstrip("-+0").startswith(tuple("123456789"))
    ):
        return value
    number = float(value)
    if number in (float("inf"), float("-inf")):
        return value
    return int(number) if re.fullmatch(r"[-+]?\d+", value) else number


def _header(rows: Sequence[list[str]]) -> list[str]:
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


def _columns(names: Sequence[str], rows: Sequence[list[str]], settings: ReadingSettings) -> _Columns:
    lower = [name.lower() for name in names]
    words = [_words([row[column] for row in rows if column < len(row)]) for column in range(len(names))]
    row_id = _wanted(names, settings.id_field) if settings.id_field else None
    titles = (settings.title_field,) if settings.title_field else TITLES
    title = next((lower.index(one.lower()) for one in titles if one.lower() in lower), None)
    if settings.text_columns or settings.text_field:
        wanted = settings.text_columns or (settings.text_field,)
        texts = [_wanted(names, one) for one in wanted]
        return _Columns(list(names), texts, None if title in texts else title, row_id, are_given=True)
    texts = [column for column, count in enumerate(words) if count >= _TEXT_WORDS and column != title]
    if not texts and title is not None and words[title] >= _TEXT_WORDS:
        texts, title = [title], None
    return _Columns(list(names), texts, title if texts else None, row_id)


def _words(cells: Iterable[str]) -> float:
    counts = [estimated_words(cell) for cell in cells if cell.strip()]
    return sum(counts) / len(counts) if counts else 0.0


def _wanted(names: Sequence[str], name: str) -> int:
    lower = [one.lower() for one in names]
    if name.lower() not in lower:
        known = ", ".join(one for one in names[:6] if one)
        raise UnreadableError(f"has no column {name} (its columns: {known})")
    return lower.index(name.lower())

"""CSV and TSV: a row is a document; the columns with the longest texts are its text, the others its fields."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.table_rows import row_documents
from llama2vec.data.settings import ReadingSettings

_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""The first line with which Excel writes its delimiter."""
_QUOTED = re.compile(r'(?:^|(?<=[,;\t|]))"(?:[^"]|"")*+"(?=[,;\t|]|$)', re.MULTILINE)
_MARKS = ",;\t|"
_LOOKED_AT = 20
"""Lines that decide on the delimiter."""
_MOST_ABOVE = 10
"""Lines that may stand above the table."""


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the rows ``FILE#LINE``."""
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
                width = width if width > 1 else len(cells)  # A title above the table has one cell
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


def is_table(text: str) -> bool:
    """Tell whether a text whose name does not tell is a table: a tab in each line, or as many of another delimiter."""
    mark = _delimiter(text)
    divides, is_even, _ = _merit(_first_lines(text), mark)
    return divides > 1 and (is_even or mark == "\t")


def _first_lines(text: str) -> list[str]:
    """Return the first lines without what is quoted."""
    sample = _QUOTED.sub("", text[: 2**16])
    return [line for line in sample.split("\n")[:_LOOKED_AT] if line.strip()]


def _delimiter(text: str) -> str:
    """Return which of the usual delimiters divides the first lines, and most evenly, outside quotes."""
    lines = _first_lines(text)
    return max(_MARKS, key=lambda mark: _merit(lines, mark))


def _merit(lines: Sequence[str], mark: str) -> tuple[int, bool, int]:
    """Return how well a delimiter divides lines: how few stand above those that it divides, evenly, how often."""
    counts = [line.count(mark) for line in lines]
    above = next((number for number, count in enumerate(counts) if count), len(counts))
    divided = counts[above:]
    divides = bool(divided) and min(divided) > 0 and (above == 0 or (above <= _MOST_ABOVE and len(divided) > 1))
    return len(counts) - above if divides else 0, divides and len(set(divided)) == 1, sum(counts)

"""Workbooks (XLSX, and Excel's XML of 2003): a row of a sheet is a document; comments end the text of their row."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from itertools import islice
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.archives import open_zip, parsed_xml, xml_attribute, zip_bytes
from llama2vec.data.documents.readers.building import Fault
from llama2vec.data.documents.readers.table_rows import MOST_COLUMNS, MOST_ROWS, row_documents
from llama2vec.data.documents.readers.values import typed
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value
from llama2vec.terminal import counted

XML_2003 = b"urn:schemas-microsoft-com:office:spreadsheet"
_BLANK_FORMULA = re.compile(
    rb"""<(?:\w{1,9}:)?c(?![^>]*\bt=["']str["'])(?:\s[^>]*)?>\s*<(?:\w{1,9}:)?f\b[^>]*(?:/>|>[^<]*</(?:\w{1,9}:)?f>)\s*"""
    rb"""(?:<(?:\w{1,9}:)?v\s*/>|<(?:\w{1,9}:)?v>\s*</(?:\w{1,9}:)?v>)?\s*</(?:\w{1,9}:)?c>"""
)
"""A cell with a formula and no value; one of the type ``str`` has an empty text."""
_CHART = re.compile(r"xl/(?:charts/chart|diagrams/data)[^/]*\.xml")
_DRAWING = re.compile(r"xl/drawings/drawing[^/]*\.xml")
_LINE = re.compile(r"[A-Za-z]{1,3}(\d{1,7})")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document | Fault]:
    """Yield the rows ``FILE!SHEET#LINE``."""
    with open_zip(data, settings) as opened:
        left_out = _left_out(opened)
        yield from _sheets(data, opened, name, settings)
    for reason in left_out:
        yield Fault("", reason)


def _sheets(data: bytes, opened: zipfile.ZipFile, name: str, settings: ReadingSettings) -> Iterator[Document | Fault]:
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    try:
        for sheet in book.worksheets:
            try:
                comments = _comments(opened, sheet._worksheet_path.lstrip("/"))
            except UnreadableError as error:
                comments = {}
                yield Fault(f"comments of {sheet.title}", str(error))
            # Without the size that the sheet claims: one cell may claim a million rows of 16,384 columns.
            sheet.reset_dimensions()
            lines = enumerate(islice(sheet.iter_rows(values_only=True), MOST_ROWS), start=1)
            rows = ((line, [_value(cell) for cell in cells]) for line, cells in lines)
            yield from row_documents(rows, f"{name}!{sheet.title}", settings, {"sheet": sheet.title}, comments)
    finally:
        book.close()


def _value(cell: Any) -> Value:
    if cell is None:
        return ""
    if isinstance(cell, bool | int | float | str):
        return cell
    text = str(cell)
    # A date has a time only where the cell has one.
    return text.removesuffix(" 00:00:00") if hasattr(cell, "year") else text


def _left_out(opened: zipfile.ZipFile) -> list[str]:
    """Return what of a workbook is not read: formulas that no program has computed, charts, text boxes."""
    names = opened.namelist()
    sheets = (name for name in names if name.startswith("xl/worksheets/") and name.endswith(".xml"))
    formulas = sum(len(_BLANK_FORMULA.findall(zip_bytes(opened, name))) for name in sheets)
    charts = sum(_CHART.fullmatch(name) is not None for name in names)
    drawings = (parsed_xml(zip_bytes(opened, name)) for name in names if _DRAWING.fullmatch(name))
    boxes = sum(
        any((text.text or "").strip() for text in shape.iter("{*}t"))
        for drawing in drawings
        for shape in drawing.iter("{*}sp")
    )
    found = []
    if formulas:
        found.append(f"{counted(formulas, 'formula')} without a value; open and save it in a spreadsheet program")
    if charts:
        found.append(f"{counted(charts, 'chart or diagram', 'charts or diagrams')} left out")
    return found + ([f"{counted(boxes, 'text box', 'text boxes')} left out"] if boxes else [])


def _comments(opened: zipfile.ZipFile, sheet: str) -> dict[int, list[str]]:
    """Return the comments of each line of a sheet; of a thread, its texts instead of the notice for old programs."""
    folder, _, file = sheet.rpartition("/")
    links = f"{folder}/_rels/{file}.rels"
    if links not in opened.namelist():
        return {}
    notes: dict[str, list[str]] = {}  # Cell → texts
    threads: dict[str, list[str]] = {}
    for link in parsed_xml(zip_bytes(opened, links)):
        kind = str(link.get("Type")).rpartition("/")[2]
        if kind not in ("comments", "threadedComment"):
            continue
        target = posixpath.normpath(posixpath.join("/", folder, str(link.get("Target")))).lstrip("/")
        tag, of_cell = ("comment", notes) if kind == "comments" else ("threadedComment", threads)
        for comment in parsed_xml(zip_bytes(opened, target)).iter(f"{{*}}{tag}"):
            pieces = comment.iter("{*}t") if kind == "comments" else comment.iter("{*}text")
            if text := "".join(piece.text or "" for piece in pieces).strip():
                of_cell.setdefault(str(comment.get("ref")), []).append(text)
    found: dict[int, list[str]] = {}
    for cell, texts in (notes | threads).items():
        if place := _LINE.fullmatch(cell):
            found.setdefault(int(place[1]), []).extend(texts)
    return found


def xml_sheets(root: Any, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the rows ``FILE!SHEET#LINE`` of a workbook that is one XML file, as Excel 2003 writes it."""
    for number, sheet in enumerate(root.iterfind("{*}Worksheet"), start=1):
        title = xml_attribute(sheet, "Name") or f"Sheet{number}"
        comments: dict[int, list[str]] = {}
        rows = _xml_rows(sheet, comments, settings.max_file_bytes)
        yield from row_documents(rows, f"{name}!{title}", settings, {"sheet": title}, comments)


def _xml_rows(sheet: Any, comments: dict[int, list[str]], room: int) -> Iterator[tuple[int, list[Value]]]:
    """Yield (line, cells) of each row, and fill in the comments of each line."""
    line = 0
    for row in sheet.iterfind("{*}Table/{*}Row"):
        line = max(line + 1, _number(row, "Index"))
        cells: list[Value] = []
        for cell in row.iterfind("{*}Cell"):
            cells += [""] * (min(_number(cell, "Index"), MOST_COLUMNS) - 1 - len(cells))
            data = cell.find("{*}Data")
            cells.append("" if data is None else _xml_value(data))
            merged = min(_number(cell, "MergeAcross"), MOST_COLUMNS - len(cells))
            cells += [""] * merged
            if text := "".join("".join(part.itertext()) for part in cell.iterfind("{*}Comment")).strip():
                comments.setdefault(line, []).append(text)
        room -= len(cells)
        if room < 0:
            raise UnreadableError("its cells unfold to more than max_file_bytes (a bomb?)")
        if line > MOST_ROWS:
            return
        yield line, cells


def _xml_value(data: Any) -> Value:
    text, kind = "".join(data.itertext()), xml_attribute(data, "Type")
    if kind == "Boolean":
        return text.strip() == "1"
    if kind == "Number":
        return typed(text.strip())
    return text.removesuffix("T00:00:00.000") if kind == "DateTime" else text


def _number(element: Any, name: str) -> int:
    text = xml_attribute(element, name)
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0

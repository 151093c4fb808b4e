"""OpenDocument (ODT, ODP, ODS): headings, lists and tables as blocks; a slide is a page, a row a document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.archives import open_zip, parsed_xml, xml_attribute, zip_bytes
from llama2vec.data.documents.readers.building import Fault, TextBuilder
from llama2vec.data.documents.readers.table_rows import MOST_COLUMNS, MOST_ROWS, row_documents
from llama2vec.data.documents.readers.values import shown
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value
from llama2vec.terminal import counted

_BREAKS = {"line-break": "\n", "tab": "\t"}
_LEFT_OUT = frozenset(("tracked-changes", "annotation", "table-of-content", "alphabetical-index", "forms"))
_DRAWN = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
"""Boxes, shapes and pictures, which hold paragraphs of their own."""
_FIELDS = {"creator": "author", "initial-creator": "author", "creation-date": "date"}


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document | Fault]:
    """Yield the text or the slides as one document, or the rows ``FILE!SHEET#LINE`` of a spreadsheet."""
    with open_zip(data, settings) as opened:
        if b"encryption-data" in zip_bytes(opened, "META-INF/manifest.xml"):
            raise UnreadableError("encrypted")
        problems: list[str] = []
        content = parsed_xml(zip_bytes(opened, "content.xml"), problems)
        facts = parsed_xml(zip_bytes(opened, "meta.xml")) if "meta.xml" in opened.namelist() else None
    if objects := sum(1 for _ in content.iter(f"{_DRAWN}object")):
        problems.append(f"{counted(objects, 'embedded object')} (a chart or formula) left out")
    if name.lower().endswith((".ods", ".ots")):
        for number, sheet in enumerate(content.iterfind(".//{*}spreadsheet/{*}table"), start=1):
            label = xml_attribute(sheet, "name") or f"Sheet{number}"
            comments: dict[int, list[str]] = {}
            rows = _rows(sheet, settings.max_file_bytes, comments)
            yield from row_documents(rows, f"{name}!{label}", settings, {"sheet": label}, comments)
        for problem in problems:
            yield Fault("", problem)
        return
    builder = TextBuilder()
    body = content.find(".//{*}body")
    if body is not None:
        _Walk(builder).add(body)
    title, fields = "", dict[str, Value]()
    if facts is not None:
        title = (facts.findtext(".//{*}title") or "").strip()
        for tag, field in _FIELDS.items():
            if value := (facts.findtext(f".//{{*}}{tag}") or "").strip():
                fields[field] = value[:10] if field == "date" else value
    yield builder.document(name, title=title, fields=fields, problems=problems)


def _rows(sheet: Any, most_characters: int, comments: dict[int, list[str]]) -> Iterator[tuple[int, list[Value]]]:
    """Yield (line, cells) of the rows that are not blank; repeated ones count as often as they say, within limits.

    ``comments`` takes those of each line.
    """
    line = 1
    for row in _own_rows(sheet):
        cells: list[Value] = []
        for cell in row:
            if _tag(cell) in ("table-cell", "covered-table-cell"):
                value = _cell(cell)
                repeated = min(_repeated(cell, "columns"), MOST_COLUMNS - len(cells))
                most_characters -= len(shown(value)) * repeated
                _check_room(most_characters)
                cells += [value] * repeated
                notes = (
                    "\n".join(_text(part) for part in note.iterfind("{*}p")) for note in cell.iterfind("{*}annotation")
                )
                if texts := [note for note in notes if note.strip()]:
                    comments.setdefault(line, []).extend(texts)
        while cells and not shown(cells[-1]).strip():
            cells.pop()
        repeated = _repeated(row, "rows")
        if cells:
            for number in range(line, min(line + repeated, MOST_ROWS + 1)):
                most_characters -= sum(len(shown(cell)) for cell in cells) + len(cells)
                _check_room(most_characters)
                yield number, cells
        line += repeated


def _own_rows(table: Any) -> Iterator[Any]:
    """Yield the rows of a table, without those of the tables in its cells."""
    for child in table:
        if _tag(child) == "table-row":
            yield child
        elif _tag(child) in ("table-rows", "table-header-rows", "table-row-group"):
            yield from _own_rows(child)


def _check_room(characters: int) -> None:
    if characters < 0:
        raise UnreadableError("its repeated cells unfold to more than max_file_bytes (a bomb?)")


def _repeated(element: Any, what: str) -> int:
    count = xml_attribute(element, f"number-{what}-repeated")
    return max(1, int(count)) if count.isdecimal() and len(count) < 10 else 1


def _cell(cell: Any) -> Value:
    """Return what a cell holds: a number, a date or a truth value as such, else its text."""
    kind = xml_attribute(cell, "value-type")
    if kind in ("float", "currency", "percentage") and (value := xml_attribute(cell, "value")):
        with suppress(ValueError):
            return float(value) if isfinite(float(value)) else value
    if kind == "boolean" and (value := xml_attribute(cell, "boolean-value")):
        return value == "true"
    if kind == "date" and (value := xml_attribute(cell, "date-value")):
        return value.removesuffix("T00:00:00")
    return "\n".join(_text(part) for part in cell.iterfind("{*}p"))


def _tag(element: Any) -> str:
    return str(element.tag).rpartition("}")[2] if isinstance(element.tag, str) else ""


class _Walk:
    """Adds the elements of a text in order."""

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._page: int | None = None

    def add(self, element: Any, in_list: bool = False) -> None:
        tag = _tag(element)
        if tag in _LEFT_OUT or not tag:
            return
        if tag == "h":
            level = next((value for key, value in element.items() if key.endswith("}outline-level")), "1")
            self._builder.heading(int(level) if level.isdigit() else 1, _text(element), self._page)
            self._add_apart(element)
        elif tag in ("p", "title", "desc"):  # Also what describes a picture
            text = _text(element)
            self._builder.add(f"- {text}" if in_list and text.strip() else text, page=self._page, tight=in_list)
            self._add_apart(element)
        elif tag == "table":
            rows = [
                [" ".join(_text(cell).split()) for cell in row.iterfind("{*}table-cell")] for row in _own_rows(element)
            ]
            lines = [" | ".join(cells) for cells in rows if any(cells)]
            self._builder.add("\n".join(lines), "table", self._page)
            self._add_apart(element)
        elif tag == "note":
            body = element.find("{*}note-body")
            if body is not None:
                self._builder.add(f"{_citation(element)} {_text(body)}", page=self._page)
                self._add_apart(body)
        else:
            if tag == "page":
                self._page = (self._page or 0) + 1
                self._builder.enter(1, f"Slide {self._page}")
            self._children(element, in_list=in_list or tag == "list")

    def _add_apart(self, element: Any) -> None:
        """Add the notes, boxes and inner tables of a paragraph or a table after it."""
        for child in element:
            if _is_apart(child):
                self.add(child)
            elif _tag(child) not in _LEFT_OUT:
                self._add_apart(child)

    def _children(self, element: Any, *, in_list: bool) -> None:
        for child in element:
            self.add(child, in_list)


def _text(element: Any) -> str:
    """Return the text of a paragraph or a cell, without its comments, boxes and inner tables."""
    parts = [element.text or ""]
    for child in element:
        tag = _tag(child)
        if tag == "s":
            count = next((value for key, value in child.items() if key.endswith("}c")), "1")
            parts.append(" " * min(int(count), 100) if count.isdigit() else " ")
        elif tag in _BREAKS:
            parts.append(_BREAKS[tag])
        elif tag == "note":
            parts.append(_citation(child))
        elif tag and tag not in _LEFT_OUT and not _is_apart(child):
            parts.append(_text(child))
            if tag in ("p", "h"):
                parts.append("\n")
        parts.append(child.tail or "")
    return "".join(parts)


def _is_apart(element: Any) -> bool:
    return _tag(element) in ("note", "table") or str(element.tag).startswith(_DRAWN)


def _citation(note: Any) -> str:
    """Return the sign of a footnote in brackets."""
    sign = (note.findtext("{*}note-citation") or "").strip()
    return f"[{sign}]" if sign else ""

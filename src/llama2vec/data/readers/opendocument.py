"""OpenDocument texts and slides (ODT, ODP): headings, lists and tables as blocks; a slide is a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.archives import open_zip, parsed_xml, zip_bytes
from llama2vec.data.readers.building import TextBuilder
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

_BREAKS = {"line-break": "\n", "tab": "\t"}
_LEFT_OUT = frozenset(("tracked-changes", "annotation", "table-of-content", "alphabetical-index", "forms"))
_FIELDS = {"creator": "author", "initial-creator": "author", "creation-date": "date"}


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the text or the slides as one document."""
    with open_zip(data, settings) as opened:
        if b"encryption-data" in zip_bytes(opened, "META-INF/manifest.xml"):
            raise UnreadableError("encrypted")
        content = parsed_xml(zip_bytes(opened, "content.xml"))
        facts = parsed_xml(zip_bytes(opened, "meta.xml")) if "meta.xml" in opened.namelist() else None
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
    yield builder.document(name, title=title, fields=fields)


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
        elif tag == "p":
            text = _text(element)
            self._builder.add(f"- {text}" if in_list and text.strip() else text, page=self._page, tight=in_list)
            for frame in element.iterfind(".//{*}text-box"):
                self._children(frame, in_list=False)
        elif tag == "table":
            rows = [
                [" ".join(_text(cell).split()) for cell in row.iterfind("{*}table-cell")]
                for row in element.iter("{*}table-row")
            ]
            lines = [" | ".join(cells) for cells in rows if any(cells)]
            self._builder.add("\n".join(lines), "table", self._page)
        else:
            if tag == "page":
                self._page = (self._page or 0) + 1
                self._builder.enter(1, f"Slide {self._page}")
            self._children(element, in_list=in_list or tag == "list")

    def _children(self, element: Any, *, in_list: bool) -> None:
        for child in element:
            self.add(child, in_list)


def _text(element: Any) -> str:
    """Return the text of a paragraph or a cell, without its comments and text boxes."""
    parts = [element.text or ""]
    for child in element:
        tag = _tag(child)
        if tag == "s":
            count = next((value for key, value in child.items() if key.endswith("}c")), "1")
            parts.append(" " * min(int(count), 100) if count.isdigit() else " ")
        elif tag in _BREAKS:
            parts.append(_BREAKS[tag])
        elif tag not in ("annotation", "text-box", "tracked-changes", ""):
            parts.append(_text(child))
            if tag in ("p", "h", "note-body"):
                parts.append("\n")
        parts.append(child.tail or "")
    return "".join(parts)

"""EPUB: the chapters in reading order, each read like an HTML page."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.archives import entry_bytes, open_zip, parsed_xml, zip_bytes, zip_entry
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.html import add_html
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_FIELDS = {"creator": "author", "date": "date", "language": "language"}


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the book as one document; chapters that are missing or encrypted are named."""
    builder = TextBuilder()
    problems: list[str] = []
    with open_zip(data, settings) as opened:
        package = parsed_xml(zip_bytes(opened, _CONTAINER)).find(".//{*}rootfile")
        path = package.get("full-path", "") if package is not None else ""
        book = parsed_xml(zip_bytes(opened, path), problems)
        encrypted = _encrypted(opened)
        for chapter in _chapters(book, posixpath.dirname(path)):
            try:
                if chapter in encrypted:
                    raise UnreadableError("encrypted")
                # All of the page: a book's notes stand where a web page has its menus.
                add_html(builder, decoded(entry_bytes(opened, zip_entry(opened, chapter))), menus=True)
            except KeyError:
                problems.append(f"{chapter}: missing")
            except UnreadableError as error:
                problems.append(f"{chapter}: {error}")
    if not builder.length and any(problem.endswith(": encrypted") for problem in problems):
        raise UnreadableError("encrypted")
    facts = {tag: (book.findtext(f".//{{*}}metadata/{{*}}{tag}") or "").strip() for tag in ("title", *_FIELDS)}
    fields: dict[str, Value] = {field: facts[tag] for tag, field in _FIELDS.items() if facts[tag]}
    yield builder.document(name, title=facts["title"], fields=fields, problems=problems)


def _encrypted(opened: zipfile.ZipFile) -> set[str]:
    """Return the paths that the book says are encrypted: often its fonts alone."""
    if _ENCRYPTION not in opened.namelist():
        return set()
    parts = parsed_xml(zip_bytes(opened, _ENCRYPTION)).iterfind(".//{*}CipherReference")
    return {posixpath.normpath(unquote(part.get("URI") or "")) for part in parts}


def _chapters(book: Any, folder: str) -> Iterator[str]:
    """Yield the paths of the chapters in reading order, without the pages that only list them."""
    items = {item.get("id"): item for item in book.iterfind(".//{*}manifest/{*}item")}
    for reference in book.iterfind(".//{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split():
            continue
        if "html" in (item.get("media-type") or "html"):
            yield posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))

"""DOCX and PPTX: headings, tables and notes as blocks; a slide is a page."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.archives import open_zip, parsed_xml, zip_bytes
from llama2vec.data.readers.building import TextBuilder
from llama2vec.data.readers.html import add_html
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

_ENCRYPTED = b"\xd0\xcf\x11\xe0"
"""An OLE file: Office puts an encrypted DOCX or PPTX into one, and the old formats are ones."""
_CORE = "docProps/core.xml"
_TEMPLATE_TITLES = ("PowerPoint Presentation", "Word Document", "Slide 1")
_STYLES = "\n".join(
    ["p[style-name='Title'] => h1:fresh", "p[style-name='Subtitle'] => p:fresh", "comment-reference => sup"]
)


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the text or the slides as one document."""
    if data.startswith(_ENCRYPTED):
        raise UnreadableError("encrypted, or an old Office format")
    with open_zip(data, settings) as opened:
        title, fields = _properties(opened)
    builder = TextBuilder()
    slides = name.lower().endswith((".pptx", ".pptm", ".ppsx"))
    problems = _slides(data, builder) if slides else _words(data, builder)
    yield builder.document(name, title=title, fields=fields, problems=problems)


def _properties(opened: zipfile.ZipFile) -> tuple[str, dict[str, Value]]:
    """Return the title, and author and date as fields; a template's title is none."""
    if _CORE not in opened.namelist():
        return "", {}
    core = parsed_xml(zip_bytes(opened, _CORE))
    title, author, created = ((core.findtext(f"{{*}}{tag}") or "").strip() for tag in ("title", "creator", "created"))
    fields: dict[str, Value] = {"author": author} if author else {}
    if created:
        fields["date"] = created[:10]
    return "" if title in _TEMPLATE_TITLES else title, fields


def _words(data: bytes, builder: TextBuilder) -> list[str]:
    import mammoth

    # Pictures are left out; what they link to would be read from the disk or the network.
    found = mammoth.convert_to_html(
        io.BytesIO(data), style_map=_STYLES, convert_image=lambda image: [], external_file_access=False
    )
    add_html(builder, f"<main>{found.value}</main>")
    return sorted({str(one.message) for one in found.messages if one.type == "error"})


def _slides(data: bytes, builder: TextBuilder) -> list[str]:
    from pptx import Presentation

    opened = Presentation(io.BytesIO(data))
    empty = []
    for number, slide in enumerate(opened.slides, start=1):
        title = slide.shapes.title
        title_text = title.text_frame.text.strip() if title is not None and title.has_text_frame else ""
        if title_text:
            builder.heading(1, title_text, number)
        else:
            builder.enter(1, f"Slide {number}")
        shapes = [shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id]
        texts = _add_shapes(builder, shapes, number)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            builder.add(slide.notes_slide.notes_text_frame.text.replace("\v", "\n"), page=number)
            texts = True
        if not title_text and not texts and len(slide.shapes):
            empty.append(number)
    named = ", ".join(map(str, empty))
    return [f"slide{'s' if len(empty) > 1 else ''} {named} without text (pictures?)"] if empty else []


def _add_shapes(builder: TextBuilder, shapes: Iterable[Any], page: int) -> bool:
    """Add the texts and tables of shapes from top to bottom; tell whether there were any."""
    found = False
    for shape in sorted(shapes, key=lambda one: (one.top or 0, one.left or 0)):
        if hasattr(shape, "shapes"):
            found |= _add_shapes(builder, shape.shapes, page)
        elif getattr(shape, "has_table", False):
            rows = [" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows]
            builder.add("\n".join(row for row in rows if row.strip("| ")), "table", page)
            found = True
        elif shape.has_text_frame and shape.text_frame.text.strip():
            builder.add(shape.text_frame.text.replace("\v", "\n"), page=page)
            found = True
    return found

"""DOCX and PPTX: headings, tables and notes as blocks; a slide is a page."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.archives import open_zip, parsed_xml, zip_bytes
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.documents.readers.html import add_html
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value
from llama2vec.terminal import counted

_ENCRYPTED = b"\xd0\xcf\x11\xe0"
"""An OLE file: Office puts an encrypted DOCX or PPTX into one, and the old formats are ones."""
_CORE = "docProps/core.xml"
_TEMPLATE_TITLES = ("PowerPoint Presentation", "Word Document", "Slide 1")
_CHART = re.compile(r"word/(?:charts/chart|diagrams/data)[^/]*\.xml")
_BODY = re.compile(r"word/[^/]+\.xml")
_NOT_RUNS = re.compile(rb"<\w{1,9}:(?:oMath|ruby|fldSimple|dir|bdo)\b")
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
    problems = _slides(data, builder) if slides else _words(data, builder, settings)
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


def _words(data: bytes, builder: TextBuilder, settings: ReadingSettings) -> list[str]:
    import mammoth

    with open_zip(data, settings) as opened:
        data, equations = _prepared(data, opened)
        charts = sum(_CHART.match(name) is not None for name in opened.namelist())
    # Pictures are left out; what they link to would be read from the disk or the network.
    found = mammoth.convert_to_html(
        io.BytesIO(data), style_map=_STYLES, convert_image=lambda image: [], external_file_access=False
    )
    add_html(builder, f"<main>{found.value}</main>")
    problems = [f"{counted(equations, 'equation')}, read as letters and signs alone"] if equations else []
    problems += [f"{counted(charts, 'chart or diagram', 'charts or diagrams')} left out"] if charts else []
    if any(str(one.message).endswith("altChunk") for one in found.messages):
        problems.append("another file that it includes left out")
    return problems + sorted({str(one.message) for one in found.messages if one.type == "error"})


def _prepared(data: bytes, opened: zipfile.ZipFile) -> tuple[bytes, int]:
    """Return a DOCX with equations and fields as runs, which is all that mammoth reads, and count the equations."""
    from lxml import etree

    changed: dict[str, bytes] = {}
    equations = 0
    for name in opened.namelist():
        if _BODY.fullmatch(name) and _NOT_RUNS.search(source := zip_bytes(opened, name)):
            root = parsed_xml(source)
            equations += sum(1 for _ in root.iter("{*}oMath"))
            _put_runs(root)
            changed[name] = etree.tostring(root)
    if not changed:
        return data, 0
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as written:
        for name in dict.fromkeys(opened.namelist()):
            if name.endswith((".xml", ".rels")):  # Pictures are not read
                written.writestr(name, changed.get(name) or zip_bytes(opened, name))
    return target.getvalue(), equations


def _put_runs(root: Any) -> None:
    """Replace equations by their letters, ruby text by what it stands above, and fields by what they show."""
    space = f"{str(root.tag).rpartition('}')[0]}}}"
    # An equation on a line of its own is an oMath within an oMathPara, which is gone with the first.
    for element in list(root.iter("{*}oMathPara", "{*}oMath", "{*}ruby", "{*}fldSimple", "{*}dir", "{*}bdo")):
        parent, tag = element.getparent(), str(element.tag).rpartition("}")[2]
        if parent is None or str(parent.tag).endswith("}oMathPara"):
            continue
        if tag in ("fldSimple", "dir", "bdo"):
            inner = list(element)
        else:
            base = element if tag != "ruby" else element.find("{*}rubyBase")
            texts = [] if base is None else [(part.text or "").strip() for part in base.iter("{*}t")]
            text = parent.makeelement(f"{space}t")
            text.text = ("" if tag == "ruby" else " ").join(filter(None, texts))
            inner = [text]
            if tag != "ruby":  # Which stands within a run
                inner = [parent.makeelement(f"{space}r")]
                inner[0].append(text)
        place = parent.index(element)
        parent[place : place + 1] = inner


def _slides(data: bytes, builder: TextBuilder) -> list[str]:
    from pptx import Presentation

    opened = Presentation(io.BytesIO(data))
    empty = []
    left_out: list[str] = []
    for number, slide in enumerate(opened.slides, start=1):
        title = slide.shapes.title
        title_text = title.text_frame.text.strip() if title is not None and title.has_text_frame else ""
        if title_text:
            builder.heading(1, title_text, number)
        else:
            builder.enter(1, f"Slide {number}")
        shapes = [shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id]
        texts = _add_shapes(builder, shapes, number, left_out)
        texts |= _add_alternatives(builder, slide, number)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            builder.add(slide.notes_slide.notes_text_frame.text.replace("\v", "\n"), page=number)
            texts = True
        if not title_text and not texts and len(slide.shapes):
            empty.append(number)
    named = ", ".join(map(str, empty))
    if empty:
        left_out.append(f"slide{'s' if len(empty) > 1 else ''} {named} without text (pictures?)")
    return left_out


def _add_shapes(builder: TextBuilder, shapes: Iterable[Any], page: int, left_out: list[str]) -> bool:
    """Add the texts, tables and charts of shapes from top to bottom; tell whether there were any.

    ``left_out`` takes what cannot be read.
    """
    from pptx.shapes.graphfrm import GraphicFrame

    found = False
    for shape in sorted(shapes, key=lambda one: (one.top or 0, one.left or 0)):
        if hasattr(shape, "shapes"):
            found |= _add_shapes(builder, shape.shapes, page, left_out)
        elif getattr(shape, "has_table", False):
            rows = [" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows]
            builder.add("\n".join(row for row in rows if row.strip("| ")), "table", page)
            found = True
        elif isinstance(shape, GraphicFrame):
            texts: list[str] = []
            with suppress(Exception):  # python-pptx fails on some kinds of charts; the slide has others
                texts = _chart(shape.chart) if shape.has_chart else _diagram(shape)
            builder.add("\n".join(texts), "table" if shape.has_chart else "text", page)
            found |= bool(texts)
            if not texts:
                left_out.append(f"slide {page}: {'a chart' if shape.has_chart else 'an embedded object'} left out")
        elif shape.has_text_frame and shape.text_frame.text.strip():
            builder.add(shape.text_frame.text.replace("\v", "\n"), page=page)
            found = True
    return found


def _chart(chart: Any) -> list[str]:
    """Return a chart's title, and a line for each category with the values of its series."""
    lines = [chart.chart_title.text_frame.text] if chart.has_title and chart.chart_title.has_text_frame else []
    for plot in chart.plots:
        series = list(plot.series)
        lines.append(" | ".join(["", *(one.name for one in series)]).strip())
        columns = [list(one.values) for one in series]
        for place, category in enumerate(map(str, plot.categories)):
            values = [column[place] if place < len(column) else None for column in columns]
            lines.append(" | ".join([category, *("" if value is None else f"{value:.15g}" for value in values)]))
    return [line for line in lines if line.strip("| ")]


def _diagram(shape: Any) -> list[str]:
    """Return the paragraphs of a SmartArt diagram, nothing for another object."""
    links = shape._element.find(".//{*}relIds")
    key = next((key for key in (links.keys() if links is not None else ()) if key.endswith("}dm")), None)
    return _paragraphs(parsed_xml(shape.part.related_part(links.get(key)).blob)) if key else []


def _add_alternatives(builder: TextBuilder, slide: Any, page: int) -> bool:
    """Add the texts of shapes with a fallback for old programs, such as equations, which python-pptx omits."""
    found = [
        text
        for choice in slide.shapes._spTree.iterfind(".//{*}AlternateContent/{*}Choice")
        for text in _paragraphs(choice)
    ]
    builder.add("\n".join(found), page=page)
    return bool(found)


def _paragraphs(element: Any) -> list[str]:
    # A line break has no text.
    texts = ("".join(part.text or " " for part in one.iter("{*}t", "{*}br")) for one in element.iter("{*}p"))
    return [text for text in texts if text.strip()]

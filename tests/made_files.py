"""Small files of every format, made in the test: bytes that a reader must understand."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence


def zip_bytes(members: Mapping[str, str | bytes]) -> bytes:
    """Return a zip file of these members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return target.getvalue()


def without_utf8_flag(data: bytes) -> bytes:
    """Return a zip file as macOS writes it: names in UTF-8, and no flag that says so."""
    found = bytearray(data)
    for mark, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        at = found.find(mark)
        while at >= 0:
            found[at + place] &= ~0x08 & 0xFF
            at = found.find(mark, at + 1)
    return bytes(found)


def pdf_bytes(
    pages: Sequence[Sequence[str] | None],
    *,
    title: str = "",
    bookmarks: Sequence[tuple[str, int]] = (),
    encrypted: bool = False,
    entry: str = "",
) -> bytes:
    """Return a PDF with these lines on each page, None = only a picture; ``entry`` fills a form on its last page."""
    objects: list[bytes] = []

    def added(content: bytes) -> int:
        objects.append(content)
        return len(objects)

    def stream(content: bytes, head: bytes = b"") -> bytes:
        packed = zlib.compress(content)
        return b"<<%s/Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (head, len(packed), packed)

    catalog, tree = added(b""), added(b"")
    font = added(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>")
    picture = added(
        stream(b"\x80" * 64, b"/Type/XObject/Subtype/Image/Width 8/Height 8/ColorSpace/DeviceGray/BitsPerComponent 8")
    )
    numbers = []
    for lines in pages:
        drawn = b"q 200 0 0 200 50 500 cm /P Do Q" if lines is None else _text_of(lines)
        content = added(stream(drawn))
        fields = b"/Annots[%d 0 R]" % (len(objects) + 2) if entry else b""
        numbers.append(
            added(
                b"<</Type/Page/Parent %d 0 R/MediaBox[0 0 595 842]/Contents %d 0 R%s"
                b"/Resources<</Font<</F %d 0 R>>/XObject<</P %d 0 R>>>>>>" % (tree, content, fields, font, picture)
            )
        )
    form = b""
    if entry:  # Its value alone, as programs fill forms; a viewer draws it
        field = (
            b"<</Type/Annot/Subtype/Widget/FT/Tx/T(name)/V(%s)/Rect[220 700 400 720]/DA(/F 12 Tf)>>" % entry.encode()
        )
        form = b"/AcroForm<</Fields[%d 0 R]/NeedAppearances true/DR<</Font<</F %d 0 R>>>>/DA(/F 12 Tf)>>" % (
            added(field),
            font,
        )
    outline = b""
    if bookmarks:
        root = len(objects) + 1
        count = len(bookmarks)
        added(b"<</Type/Outlines/First %d 0 R/Last %d 0 R/Count %d>>" % (root + 1, root + count, count))
        for place, (name, page) in enumerate(bookmarks, start=1):
            following = b"/Next %d 0 R" % (root + place + 1) if place < count else b""
            added(
                b"<</Title(%s)/Parent %d 0 R%s/Dest[%d 0 R/Fit]>>" % (name.encode(), root, following, numbers[page - 1])
            )
        outline = b"/Outlines %d 0 R" % root
    objects[catalog - 1] = b"<</Type/Catalog/Pages %d 0 R%s%s>>" % (tree, outline, form)
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    objects[tree - 1] = b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(numbers))
    trailer = b""
    if title:
        facts = b"<</Title(%s)/Author(A. Writer)/CreationDate(D:20240229120000Z)>>" % title.encode()
        trailer = b"/Info %d 0 R" % added(facts)
    if encrypted:
        secret = b"(" + b"x" * 32 + b")"
        trailer += b"/Encrypt<</Filter/Standard/V 2/R 3/Length 128/P -4/O%s/U%s>>/ID[(i)(i)]" % (secret, secret)
    return _assembled(objects, trailer)


def _text_of(lines: Sequence[str]) -> bytes:
    shown = (b"(%s) Tj T*" % line.encode("cp1252").replace(b"(", b"\\(").replace(b")", b"\\)") for line in lines)
    return b"BT /F 12 Tf 14 TL 50 780 Td %s ET" % b" ".join(shown)


def _assembled(objects: Sequence[bytes], trailer: bytes) -> bytes:
    result = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(result))
        result += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(result)
    result += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    result += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    result += b"trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, start)
    return bytes(result)


_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"


_RELATIONS = "application/vnd.openxmlformats-package.relationships+xml"


def docx_paragraph(text: str, style: str = "") -> str:
    """Return one paragraph for :func:`docx_bytes`."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def docx_bytes(body: str, *, title: str = "", author: str = "", before: str = "") -> bytes:
    """Return a Word file with this body; ``before`` stands before the root element."""
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{level}"><w:name w:val="heading {level}"/></w:style>'
        for level in (1, 2)
    )
    core = (
        f'<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:dcterms="http://purl.org/dc/terms/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<dc:title>{title}</dc:title><dc:creator>{author}</dc:creator>"
        '<dcterms:created xsi:type="dcterms:W3CDTF">2024-02-29T12:00:00Z</dcterms:created></cp:coreProperties>'
    )
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    types = {"/word/document.xml": f"{kind}.document.main+xml", "/word/styles.xml": f"{kind}.styles+xml"}
    types["/docProps/core.xml"] = "application/vnd.openxmlformats-package.core-properties+xml"
    listed = "".join(f'<Override PartName="{part}" ContentType="{name}"/>' for part, name in types.items())
    links = f'<Relationship Id="r1" Type="{_OFFICE}/relationships/officeDocument" Target="word/document.xml"/>'
    if title:
        kind = f"{_PACKAGE}/relationships/metadata/core-properties"
        links += f'<Relationship Id="r2" Type="{kind}" Target="docProps/core.xml"/>'
    own = f'<Relationship Id="r1" Type="{_OFFICE}/relationships/styles" Target="styles.xml"/>'
    return zip_bytes(
        {
            "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
            f'<Default Extension="rels" ContentType="{_RELATIONS}"/>{listed}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{own}</Relationships>',
            "word/document.xml": f"{before}<w:document {_WORD}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": f"<w:styles {_WORD}>{styles}</w:styles>",
            "docProps/core.xml": core,
        }
    )


def epub_bytes(
    chapters: Mapping[str, str],
    order: Sequence[str],
    *,
    title: str = "Camelids",
    before: str = "",
    more: Mapping[str, str] | None = None,
) -> bytes:
    """Return a book with these chapters, a page of contents ``nav.xhtml``, and ``more`` files."""
    items = "".join(
        f'<item id="{name}" href="{name}" media-type="application/xhtml+xml"/>' for name in order if "nav" not in name
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in order)
    package = (
        f'{before}<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>{title}</dc:title><dc:creator>A. Writer</dc:creator><dc:date>2024</dc:date>"
        "<dc:language>en</dc:language></metadata><manifest>"
        '<item id="nav.xhtml" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f"{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    )
    pages = {f"OPS/{name}": text for name, text in {"nav.xhtml": "<nav>Contents</nav>", **chapters}.items()}
    return zip_bytes({"META-INF/container.xml": container, "OPS/book.opf": package, **pages, **(more or {})})


def odf_bytes(body: str, *, manifest: str = "") -> bytes:
    """Return an OpenDocument file with this body."""
    space = "urn:oasis:names:tc:opendocument:xmlns"
    names = "".join(f' xmlns:{name}="{space}:{name}:1.0"' for name in ("office", "text", "table", "meta"))
    names += f' xmlns:draw="{space}:drawing:1.0" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    meta = "<dc:title>Camelids</dc:title><dc:creator>A. Writer</dc:creator>"
    meta += "<meta:creation-date>2024-02-29T12:00:00</meta:creation-date>"
    return zip_bytes(
        {
            "META-INF/manifest.xml": f'<m:manifest xmlns:m="{space}:manifest:1.0">{manifest}</m:manifest>',
            "content.xml": f"<office:content{names}><office:body>{body}</office:body></office:content>",
            "meta.xml": f"<office:facts{names}><office:meta>{meta}</office:meta></office:facts>",
        }
    )


def pptx_bytes() -> bytes:
    """Return three slides: title, text and notes; a table; an empty text box."""
    from pptx import Presentation
    from pptx.util import Inches

    made = Presentation()
    first = made.slides.add_slide(made.slide_layouts[1])
    first.shapes.title.text = "Wool"
    first.placeholders[1].text = "Soft\nWarm"
    first.notes_slide.notes_text_frame.text = "Say it twice."
    second = made.slides.add_slide(made.slide_layouts[6])
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for place, text in enumerate(("a", "b", "1", "2")):
        table.cell(place // 2, place % 2).text = text
    third = made.slides.add_slide(made.slide_layouts[6])
    third.shapes.add_textbox(0, 0, Inches(1), Inches(1))
    made.core_properties.title = "Camelids"
    made.core_properties.author = ""
    target = io.BytesIO()
    made.save(target)
    return target.getvalue()


def xlsx_bytes(rows: Sequence[Sequence[object]]) -> bytes:
    """Return a workbook of two sheets: ``Herd`` with these rows, and an empty one."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "Herd"
    for row in rows:
        book.active.append(list(row))
    book.create_sheet("Empty")
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()

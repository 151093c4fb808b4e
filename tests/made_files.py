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


def pdf_bytes(
    pages: Sequence[Sequence[str] | None],
    *,
    title: str = "",
    bookmarks: Sequence[tuple[str, int]] = (),
    encrypted: bool = False,
) -> bytes:
    """Return a PDF with these lines on each page; None = a page that holds only a picture."""
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
        numbers.append(
            added(
                b"<</Type/Page/Parent %d 0 R/MediaBox[0 0 595 842]/Contents %d 0 R"
                b"/Resources<</Font<</F %d 0 R>>/XObject<</P %d 0 R>>>>>>" % (tree, content, font, picture)
            )
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
    objects[catalog - 1] = b"<</Type/Catalog/Pages %d 0 R%s>>" % (tree, outline)
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

"""Archives and compressed files: their members, opened within limits that a bomb exceeds before it unfolds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from html.entities import html5
from typing import Any
from xml.sax.saxutils import escape

from llama2vec.data.documents.readers.building import Fault, Member
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError

MOST_RATIO = 300
"""Data that unfolds to more than this many times its compressed size is a bomb; text and XML stay below 100."""
_SMALL = 2**20
"""Below this size any ratio is harmless."""
_MOST_MEMBERS = 100_000
_OPENERS: dict[str, Callable[[io.BytesIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_PROLOG = re.compile(rb"""[^<]{0,9}<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""")
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_MARKUP = re.compile(
    r"(?P<kept><!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|&#\d+;|&#x[\da-fA-F]+;)|&(?:[\w.:-]+;)?|<(?![^\W\d]|[:/!?])",
    re.DOTALL,
)
"""``kept`` is as it should be; the rest looks like markup and is not, or is an entity."""
_NO_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
"""Characters that an XML file cannot hold."""
_UTF8_FLAG = 0x800
"""Bit of a zip entry's flags: its name is UTF-8."""
_TAR_SUFFIXES = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz"}


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Member | Fault]:
    """Yield what a ``.gz``, ``.bz2``, ``.xz``, ``.tar`` or ``.zip`` file holds; hidden members are left out."""
    lower = name.lower()
    if lower.endswith(".zip"):
        yield from _zip_members(data, name, settings)
    elif lower.endswith(".tar"):
        yield from _tar_members(data, name, settings)
    else:
        stem, _, suffix = name.rpartition(".")
        suffix = f".{suffix.lower()}"
        if suffix in _TAR_SUFFIXES:
            suffix, stem = _TAR_SUFFIXES[suffix], f"{stem}.tar"
        yield Member(stem, _unfolded(data, suffix, settings), name)


def _unfolded(data: bytes, suffix: str, settings: ReadingSettings) -> bytes:
    limit = min(settings.max_file_bytes, max(_SMALL, MOST_RATIO * len(data)))
    try:
        with _OPENERS[suffix](io.BytesIO(data)) as stream:
            found = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        raise UnreadableError(f"its {suffix[1:]} data is damaged or cut") from None
    if len(found) > limit:
        raise _too_large(limit, settings)
    return bytes(found)


def _too_large(limit: int, settings: ReadingSettings) -> UnreadableError:
    if limit < settings.max_file_bytes:
        return UnreadableError(f"unfolds to more than {MOST_RATIO} times its size (a bomb?)")
    return UnreadableError(f"unfolds to more than max_file_bytes ({settings.max_file_bytes:,})")


def open_zip(data: bytes, settings: ReadingSettings, *, some_encrypted: bool = False) -> zipfile.ZipFile:
    """Open a zip file, such as a DOCX or an EPUB, whose members are within the limits.

    Raises:
        UnreadableError: It is damaged, would unfold to too much, or has encrypted members, unless ``some_encrypted``.
    """
    try:
        opened = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        raise UnreadableError("its zip data is damaged or cut") from None
    entries = opened.infolist()
    if len(entries) > _MOST_MEMBERS:
        raise UnreadableError(f"holds more than {_MOST_MEMBERS:,} files")
    total = sum(entry.file_size for entry in entries)
    if total > max(_SMALL, MOST_RATIO * len(data)):
        raise UnreadableError(f"unfolds to more than {MOST_RATIO} times its size (a bomb?)")
    if total > 8 * settings.max_file_bytes or any(entry.file_size > settings.max_file_bytes for entry in entries):
        raise UnreadableError(f"unfolds to more than max_file_bytes ({settings.max_file_bytes:,}) allows")
    if not some_encrypted and any(entry.flag_bits & 1 for entry in entries):
        raise UnreadableError("encrypted")
    return opened


def zip_bytes(opened: zipfile.ZipFile, name: str) -> bytes:
    """Return one member of an opened zip file.

    Raises:
        UnreadableError: It is missing or damaged.
    """
    try:
        return entry_bytes(opened, zip_entry(opened, name))
    except KeyError:
        raise UnreadableError(f"lacks {name}" if name.strip() else "does not name its text") from None
    except UnreadableError as error:
        raise UnreadableError(f"{name} in it is {error}") from None


def zip_entry(opened: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the entry of a name, also where macOS wrote its letters in another way; a KeyError if there is none."""
    try:
        return opened.getinfo(name)
    except KeyError:
        whole = unicodedata.normalize("NFC", name)
        for entry in opened.infolist():
            if unicodedata.normalize("NFC", _entry_name(entry)) == whole:
                return entry
        raise


def entry_bytes(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return one member of an opened zip file, or raise an UnreadableError that only says what is wrong with it."""
    if entry.flag_bits & 1:
        raise UnreadableError("encrypted")
    try:
        return opened.read(entry)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, ValueError):
        raise UnreadableError("damaged or cut") from None


def parsed_xml(data: bytes, problems: list[str] | None = None, encoding: str = "auto") -> Any:
    """Return the root of an XML file, without entities of its own, other files or the network.

    Args:
        data: The file.
        problems: Takes what is missing from a damaged file.
        encoding: As :func:`llama2vec.data.documents.readers.encodings.decoded` takes it.

    Raises:
        UnreadableError: No element can be read.
    """
    prolog = _PROLOG.match(data[:1000])
    text = decoded(data, encoding, prolog[1].decode("ascii") if prolog else None)
    text = _MARKUP.sub(_escaped, _NO_XML.sub(" ", _DECLARATION.sub("", text)))
    root, fault = _root(text)
    if fault is not None and fault.type_name == "ERR_DOCUMENT_END" and "<!DOCTYPE" not in text:
        root, fault = _root(f"<all>{text}</all>")  # Several elements, one after the other
    if root is None:
        raise UnreadableError("its XML is damaged")
    if fault is not None and problems is not None:
        problems.append(f"damaged XML at line {fault.line:,}; what follows may be missing")
    return root


def xml_attribute(element: Any, name: str) -> str:
    """Return an attribute of an element by its name in any namespace; "" where there is none."""
    return next((str(value) for key, value in element.items() if key.rpartition("}")[2] == name), "")


def _root(text: str) -> tuple[Any, Any]:
    """Return the root of what can be read of an XML text, and the first fault, both None where there is none."""
    from lxml import etree

    # Entities and attributes that the file itself declares could unfold to any size.
    is_safe = "<!ENTITY" not in text and "<!ATTLIST" not in text
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, recover=True, huge_tree=is_safe
    )
    root = etree.fromstring(text.encode(), parser)
    faults = (one for one in parser.error_log if one.level_name == "FATAL")
    return root, next(faults, None)


def _escaped(match: re.Match[str]) -> str:
    """Return an entity of HTML as its letters, and escape what is not markup: a bare ``&`` or ``<``, other entities."""
    found = match[0]
    if match["kept"] or found in ("&amp;", "&lt;", "&gt;", "&quot;", "&apos;"):
        return found
    return escape(html5.get(found[1:], found))


def _member_name(name: str) -> str:
    """Return the path of a member within its archive, "" for a hidden one.

    >>> _member_name("./notes/../a.md"), _member_name("/a.md"), _member_name("a/.git/config")
    ('notes/a.md', 'a.md', '')
    """
    # Nothing is unpacked to the disk, so a name that climbs out of the archive leads nowhere.
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "" if any(part.startswith(".") or part == "__MACOSX" for part in parts) else "/".join(parts)


def _entry_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a zip entry: macOS writes UTF-8 without the flag that says so, and zipfile reads cp437."""
    if not entry.flag_bits & _UTF8_FLAG:
        with suppress(UnicodeError):  # A name in cp437, or one that an extra field gave
            return entry.filename.encode("cp437").decode()
    return entry.filename


def _zip_members(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Member | Fault]:
    with open_zip(data, settings, some_encrypted=True) as opened:
        for entry in opened.infolist():
            if entry.is_dir() or not (member := _member_name(_entry_name(entry))):
                continue
            try:
                content = entry_bytes(opened, entry)
            except UnreadableError as error:
                yield Fault(member, str(error))
            else:
                yield Member(f"{name}!{member}", content)


def _tar_members(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="replace") as opened:
            for entry in opened:
                # Links and devices within an archive lead nowhere: nothing is ever unpacked to the disk.
                if entry.isreg() and (member := _member_name(entry.name)):
                    stream = opened.extractfile(entry)
                    if stream is not None:
                        yield Member(f"{name}!{member}", stream.read())
    except (tarfile.TarError, EOFError, OSError, ValueError):
        raise UnreadableError("its tar data is damaged or cut") from None

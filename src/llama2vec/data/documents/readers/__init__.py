"""Bytes of a file in any known format → documents; archives and attachments are opened within limits."""

from __future__ import annotations

import gc
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import INSTALL, Fault, Member
from llama2vec.data.documents.readers.encodings import DAMAGED
from llama2vec.data.documents.readers.recognizing import first_letters, recognized
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.terminal import counted, first_few

START_BYTES = 4096
"""A file whose suffix is unknown is recognized by so many of its first bytes."""
MOST_DEPTH = 4
"""Archives within archives, messages within messages: deeper ones are skipped by name."""
MOST_MEMBERS = 20_000
"""Files and attachments that one file may hold."""
_MOST_NAMED = 3
"""More parts of a file with one reason are counted, and so many of them named."""
MOST_TOTAL = 8
"""The members of one file may hold this many times ``max_file_bytes`` together."""


@dataclass(frozen=True, slots=True)
class Format:
    """A family of files that one module of this package reads."""

    module: str
    suffixes: tuple[str, ...]
    packages: tuple[str, ...] = ()  # Imported by it; all are in the extra ``documents``


_CODE = (
    ".py .pyi .pyx .ipy .c .h .cc .cpp .cxx .hh .hpp .hxx .m .mm .cs .java .kt .kts .scala .groovy .go .rs .swift .js "
    ".mjs .cjs .jsx .ts .tsx .vue .php .rb .pl .pm .lua .r .jl .hs .ml .mli .fs .clj .lisp .el .erl .ex .exs .dart "
    ".zig .nim .sh .bash .zsh .fish .ps1 .bat .sql .asm .s .v .vhd .f .f90 .f95 .for .pas .d .ada .adb .ads .cmake .mk "
    ".gradle .tf .proto .thrift .graphql .toml .yaml .yml .ini .cfg .conf .properties"
)
_MANUALS = ".1 .2 .3 .4 .5 .6 .7 .8 .9 .1ssl .3ssl .5ssl .7ssl .1p .3p .3pm .mdoc .man"
FORMATS = (
    Format("pdf", (".pdf",), ("pypdfium2",)),
    Format("html", (".html", ".htm", ".xhtml"), ("selectolax",)),
    Format("markdown", (".md", ".markdown", ".mdown", ".qmd", ".rmd", ".mdx")),
    Format("restructured", (".rst", ".rest")),
    Format("office", (".docx", ".docm", ".pptx", ".pptm", ".ppsx"), ("mammoth", "pptx", "selectolax")),
    Format("epub", (".epub",), ("lxml", "selectolax")),
    Format("opendocument", (".odt", ".ott", ".odp", ".ods", ".ots"), ("lxml",)),
    Format("rtf", (".rtf",), ("striprtf",)),
    Format("old_office", (".doc", ".xls", ".xlsb", ".ppt", ".pps")),
    Format("notebook", (".ipynb",)),
    Format("tables", (".csv", ".tsv", ".tab")),
    Format("workbook", (".xlsx", ".xlsm"), ("openpyxl", "lxml")),
    Format("xml", (".xml", ".docbook", ".dbk", ".dita", ".fb2", ".tei"), ("lxml",)),
    Format("json_rows", (".json", ".jsonl", ".ndjson", ".geojson")),
    Format("mail", (".eml", ".emlx", ".mbox", ".mht", ".mhtml")),
    Format("man", tuple(_MANUALS.split())),
    Format("archives", (".gz", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".tbz2", ".txz")),
    Format("plain", (".txt", ".text", ".log", ".asc")),
    Format("code", tuple(_CODE.split())),
)
_FORMAT_OF = {suffix: one for one in FORMATS for suffix in one.suffixes}
_PLAIN = _FORMAT_OF[".txt"]
_MAILDIR = re.compile(r"\d{9,11}\.\w+\.[^/]+")
"""How the messages of a Maildir are named; what looks like a suffix is the end of a computer's name."""
_OTHER_KINDS = {
    "a picture": ".png .jpg .jpeg .gif .svg .svgz .bmp .ico .webp .tif .tiff .eps .xpm .psd .avif .heic .emf .wmf",
    "sound or video": ".mp3 .wav .ogg .oga .flac .m4a .aac .mp4 .mkv .webm .avi .mov .wmv .swf",
    "a style sheet": ".css .scss .less .sass .xsl .xslt",
    "a font": ".ttf .otf .woff .woff2 .eot .pfb .afm",
    "a program or its parts": ".exe .dll .so .a .o .pyc .class .jar .whl .deb .rpm .msi .wasm .bin .dylib",
    "an unsupported archive": ".7z .rar .zst .lz4 .lzma .lz .br .cab .iso .dmg",
    "data of a program": (
        ".db .sqlite .sqlite3 .npy .npz .pkl .pickle .pt .pth .safetensors .parquet .arrow .h5 .mo .msf"
    ),
}
_REASONS = {suffix: kind for kind, suffixes in _OTHER_KINDS.items() for suffix in suffixes.split()}
_REASONS[".numbers"] = "an unsupported spreadsheet; save it as .xlsx or .csv"


def format_of(name: str, start: bytes) -> Format:
    """Return the format of a file by its name, or by its first bytes where the suffix is unknown.

    Raises:
        UnreadableError: No reader is for it.
    """
    path, start = PurePosixPath(name.rpartition("!")[2]), first_letters(start)
    suffix, like = path.suffix.lower(), recognized(start)
    if like == ".eml" and _MAILDIR.fullmatch(path.name):
        return _FORMAT_OF[like]
    if found := _FORMAT_OF.get(suffix):
        return found
    if reason := _REASONS.get(suffix):
        raise UnreadableError(reason)
    if like:
        return _FORMAT_OF[like]
    if b"\0" in start:
        raise UnreadableError(f"unknown kind of file ({suffix})" if suffix else "unknown kind of file")
    return _PLAIN


def is_document(name: str, modules: Collection[str] = ()) -> bool:
    """Tell whether a file's suffix is that of a known format, or of one that these modules read."""
    found = _FORMAT_OF.get(PurePosixPath(name).suffix.lower())
    return found is not None and (not modules or found.module in modules)


def read_bytes(data: bytes, name: str, settings: ReadingSettings) -> list[Document]:
    """Return the documents of one file; ``problems`` of the last one name the parts that were skipped.

    Args:
        data: The whole file.
        name: Path of the file relative to its folder, the start of each document's id.
        settings: How to read it.

    Raises:
        UnreadableError: Nothing of it can be read; the message is the reason alone.
    """
    opened = _Opened(settings)
    found = list(opened.read(data, name, 0))
    documents = [one for one in found if one.text.strip() or one.title]
    blank = [one.id.removeprefix(name) for one in found if not (one.text.strip() or one.title)]
    if not documents:
        problems = [*opened.problems(), *(problem for one in found for problem in one.problems)]
        first = next(iter(problems), "holds no text")
        raise UnreadableError(f"nothing in it can be read ({first})" if len(problems) > 1 else first)
    if blank:
        total, verb = counted(len(found), "document"), "holds" if len(blank) == 1 else "hold"
        opened.note("", f"{len(blank):,} of {total} in it {verb} no text ({first_few(blank)})")
    if damaged := sum(map(_damage, documents)):
        opened.note("", f"{counted(damaged, 'damaged character')} (shown as �)")
        documents = [_with_texts(one, lambda text: text.replace(DAMAGED, "\ufffd")) for one in documents]
    documents = _distinct(map(_unicode, documents))
    parts_left_out = (*documents[-1].problems, *map(_whole, opened.problems()))
    documents[-1] = replace(documents[-1], problems=parts_left_out)
    return documents


def _distinct(documents: Iterable[Document]) -> list[Document]:
    """Number the documents of a file that have an id in common, such as two members of one name."""
    counts: Counter[str] = Counter()
    found = []
    for one in documents:
        counts[one.id] += 1
        count = counts[one.id]
        found.append(one if count == 1 else replace(one, id=f"{one.id}@{count}"))
    return found


def _damage(document: Document) -> int:
    """Return how many characters of a document stand for damaged bytes."""
    # A title is as a rule a heading of the text, and the text of a row holds its fields.
    fields = [one for one in document.fields.values() if isinstance(one, str) and one not in document.text]
    texts = [document.text, *fields]
    return sum(text.count(DAMAGED) for text in texts) or document.title.count(DAMAGED)


def _with_texts(document: Document, change: Callable[[str], str]) -> Document:
    """Return a document with every text of it changed into one of the same length."""
    blocks = tuple(replace(one, headings=tuple(map(change, one.headings))) for one in document.blocks)
    fields = {change(key): change(one) if isinstance(one, str) else one for key, one in document.fields.items()}
    name, title, text = map(change, (document.id, document.title, document.text))
    return replace(document, id=name, title=title, text=text, blocks=blocks, fields=fields)


def _unicode(document: Document) -> Document:
    """Return a document that UTF-8 can hold: an escape in JSON or YAML can be half a surrogate pair."""
    values = [*document.fields, *(value for value in document.fields.values() if isinstance(value, str))]
    try:
        for text in (document.id, document.title, document.text, *values):
            text.encode()
    except UnicodeEncodeError:
        return _with_texts(document, _whole)
    return document


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class _Opened:
    """One file while it is read: what its members may still hold, and what could not be read."""

    def __init__(self, settings: ReadingSettings) -> None:
        self._settings = settings
        self._members, self._bytes = MOST_MEMBERS, MOST_TOTAL * settings.max_file_bytes
        self._problems: dict[str, list[str]] = {}  # Reason → where

    def problems(self) -> list[str]:
        """Return what could not be read; many parts that share a reason are counted."""
        found = []
        for reason, places in self._problems.items():
            if len(places) > _MOST_NAMED:
                found.append(f"{counted(len(places), 'part')}: {reason} ({first_few(places)})")
            else:
                found += [f"{where}: {reason}" if where else reason for where in places]
        return found

    def read(self, data: bytes, name: str, depth: int) -> Iterator[Document]:
        """Yield the documents of a file and of its members; a fault ends the file that has it."""
        where = " ".join(name.rpartition("!")[2].split()) if "!" in name else ""
        try:
            for found in _read(data, name, self._settings):
                if isinstance(found, Document):
                    yield found
                    continue
                if isinstance(found, Fault):
                    self.note(found.where, found.reason)
                    continue
                self._count(found, depth)
                for one in self.read(found.data, found.name, depth + 1):
                    yield replace(one, id=found.shown + one.id[len(found.name) :]) if found.shown else one
        except UnreadableError as error:
            self.note(where, str(error))

    def note(self, where: str, reason: str) -> None:
        """Add a problem of the file, or of a part of it."""
        # Names from inside the file may hold anything.
        self._problems.setdefault(" ".join(reason.split()), []).append(" ".join(where.split()))

    def _count(self, member: Member, depth: int) -> None:
        self._members -= 1
        self._bytes -= len(member.data)
        if depth >= MOST_DEPTH:
            raise UnreadableError(f"more than {MOST_DEPTH} archives within each other")
        if self._members < 0:
            raise UnreadableError(f"more than {MOST_MEMBERS:,} files in it; unpack it")
        if self._bytes < 0:
            raise UnreadableError(f"its files hold more than {MOST_TOTAL} × max_file_bytes; unpack it")


def _read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document | Member | Fault]:
    """Read with the format's own module; whatever a library raises on a damaged file becomes one reason."""
    if not data:
        raise UnreadableError("empty")
    found = format_of(name, data[:START_BYTES])
    try:
        for package in found.packages:
            import_module(package)
    except ImportError:
        raise UnreadableError(INSTALL) from None
    reader: Any = import_module(f"llama2vec.data.documents.readers.{found.module}")
    try:
        yield from reader.read(data, name, settings)
    except (UnreadableError, GeneratorExit):
        raise
    except ImportError:  # a page within a message
        raise UnreadableError(INSTALL) from None
    except RecursionError:
        raise UnreadableError("nested too deeply") from None
    except MemoryError:
        gc.collect()
        raise UnreadableError("too large for the memory") from None
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UnreadableError(f"damaged ({first[:120]})") from error

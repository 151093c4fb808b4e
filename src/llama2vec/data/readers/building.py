"""What every reader builds its documents from: decoded text, and text with the blocks that cover it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llama2vec.data.documents import Block, Document
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

INSTALL = "needs pip install 'llama2vec[documents]'"
Kind = Literal["text", "heading", "table", "code"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSED_BYTES = 2**16
"""An encoding is guessed from this many bytes around the first one that is not ASCII."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.02


@dataclass(frozen=True, slots=True)
class Member:
    """A file within a file: of an archive, or attached to a message."""

    name: str  # ``FILE!MEMBER``; its suffix tells the format
    data: bytes
    shown: str = ""  # What ids begin with instead of ``name``, for a file that was only compressed


@dataclass(frozen=True, slots=True)
class Fault:
    """What cannot be read within a file whose other parts can."""

    where: str
    reason: str


def decoded(data: bytes, encoding: str = "auto", declared: str | None = None) -> str:
    r"""Return the text of a file, without a byte order mark and with ``\n`` as its line ends.

    ``auto`` follows the byte order mark, else takes UTF-8 where the bytes are valid, else what the file declares, else
    what charset-normalizer finds.

    Raises:
        UnreadableError: The bytes are not text in that encoding, or hold too many control characters.

    >>> decoded(b"\xff\xfea\x00\r\x00\n\x00"), decoded("naïve café".encode("latin-1"), declared="latin-1")
    ('a\n', 'naïve café')
    """
    text = _decoded(data, encoding, declared).removeprefix("\ufeff")
    sample = text[:4096]
    if "\0" in sample or len(_CONTROL.findall(sample)) > max(1, _MOST_CONTROL * len(sample)):
        raise UnreadableError("holds binary data, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, encoding: str, declared: str | None) -> str:
    if encoding != "auto":
        return _with(data, encoding)
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _with(data, name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        first = error.start
    if declared:
        try:
            return data.decode(declared)
        except (UnicodeDecodeError, LookupError):
            pass
    return _guessed(data, first)


def _with(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not {encoding} at byte {error.start:,}") from None


def _guessed(data: bytes, first: int) -> str:
    if b"\0" in data[:4096]:
        raise UnreadableError("holds binary data, not text")
    begin = max(0, first - _GUESSED_BYTES // 2)
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise UnreadableError("is not UTF-8; other encodings need pip install 'llama2vec[documents]'") from None
    best = from_bytes(data[begin : begin + _GUESSED_BYTES]).best()
    if best is None:
        raise UnreadableError("its encoding is unknown; convert it to UTF-8")
    try:
        return data.decode(best.encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is neither UTF-8 nor {best.encoding} throughout (byte {error.start:,})") from None


def first_few(names: Sequence[str]) -> str:
    """Return up to three names, and "…" where there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class TextBuilder:
    """A text that grows paragraph by paragraph, with its blocks and the headings above them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._headings: list[tuple[int, str]] = []
        self.title = ""  # The first heading

    @property
    def length(self) -> int:
        """How many characters there are so far, 0 where nothing was added."""
        return self._length

    @property
    def headings(self) -> tuple[str, ...]:
        """The headings that the next paragraph stands under, outermost first."""
        return tuple(text for _, text in self._headings)

    def enter(self, level: int, text: str) -> None:
        """Put the next paragraphs under a heading; deeper and equal levels end."""
        self._headings = [(above, name) for above, name in self._headings if above < level] + [(level, text)]
        self.title = self.title or text

    def heading(self, level: int, text: str, page: int | None = None) -> None:
        """Add a heading to the text, and put the next paragraphs under it."""
        if text := " ".join(text.split()):
            self.enter(level, text)
            self.add(text, "heading", page)

    def add(self, text: str, kind: Kind = "text", page: int | None = None, *, tight: bool = False) -> None:
        """Add a paragraph, a table or code after a blank line, or ``tight`` after the line before it."""
        text = text.strip("\n") if kind == "code" else text.strip()
        if not text.strip():
            return
        last = self._blocks[-1] if self._blocks else None
        same = last is not None and (last.kind, last.headings, last.page) == (kind, self.headings, page)
        if tight and same and self._parts[-1] == "\n\n":
            self._parts[-1] = "\n"
            self._length -= 1
        begin = self._length
        self._parts += [text, "\n\n"]
        self._length += len(text) + 2
        if same and last is not None and kind == "text":
            self._blocks[-1] = Block(last.begin, self._length, kind, self.headings, page)
        else:
            self._blocks.append(Block(begin, self._length, kind, self.headings, page))

    def document(
        self,
        name: str,
        *,
        title: str = "",
        lines: Literal["file", "page", "none"] = "none",
        fields: Mapping[str, Value] | None = None,
        problems: Iterable[str] = (),
    ) -> Document:
        """Return what was built; the title is the first heading where none is given. What has no text has none."""
        text = "".join(self._parts[:-1])
        blocks = self._blocks
        if blocks:
            last = blocks[-1]
            blocks = [*blocks[:-1], Block(last.begin, len(text), last.kind, last.headings, last.page)]
        title = " ".join((title or self.title).split()) if text else ""
        return Document(name, text, title, tuple(blocks), lines, 1, fields or {}, tuple(problems))


@dataclass(frozen=True, slots=True)
class Part:
    """Where a block of a file's own text begins."""

    line: int  # From 0
    kind: Kind = "text"
    headings: tuple[str, ...] = ()


def line_blocks(text: str, parts: Iterable[Part]) -> tuple[Block, ...]:
    r"""Return blocks that cover a text from the lines at which they begin, in order.

    >>> line_blocks("# A\n\nb\n", [Part(0, "heading", ("A",)), Part(2, "text", ("A",))])[1]
    Block(begin=5, end=7, kind='text', headings=('A',), page=None)
    """
    starts = [0]
    starts += [line_end.end() for line_end in re.finditer("\n", text)]
    known = [part for part in parts if part.line < len(starts)]
    if not known or text[: starts[known[0].line]].strip():
        known.insert(0, Part(0))
    begins = [0, *(starts[part.line] for part in known[1:]), len(text)]
    found: list[Block] = []
    for part, begin, end in zip(known, begins, begins[1:], strict=False):
        if found and not text[begin:end].strip():
            found[-1] = replace(found[-1], end=end)
        elif end > begin:
            found.append(Block(begin, end, part.kind, part.headings))
    return tuple(found)

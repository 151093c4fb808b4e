"""What every reader builds its documents from: texts with the blocks that cover them, and files within files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from llama2vec.data.documents.document import Block, Document
from llama2vec.records import Value

INSTALL = "needs pip install 'llama2vec[documents]'"
Kind = Literal["text", "heading", "table", "code"]

_UNICODE_ESCAPE = re.compile(
    r"\\u(?P<high>d[89ab][\da-f]{2})\\u(?P<low>d[c-f][\da-f]{2})|\\u(?P<code>[\da-f]{4})|\\[^u]", re.IGNORECASE
)
_NO_LETTER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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


def unescaped(text: str) -> str:
    r"""Return a text with the letters of its ``\uXXXX`` escapes, but for those of line breaks and controls.

    >>> unescaped(r"Gr\u00fc\u00dfe, \ud83d\ude00, \u000a, C:\\users")
    'Grüße, 😀, \\u000a, C:\\\\users'
    """

    def shown(match: re.Match[str]) -> str:
        if match["high"]:
            return chr(0x10000 + ((int(match["high"], 16) & 0x3FF) << 10) + (int(match["low"], 16) & 0x3FF))
        letter = chr(int(match["code"], 16)) if match["code"] else ""
        return letter if letter and not _NO_LETTER.fullmatch(letter) else match[0]

    return _UNICODE_ESCAPE.sub(shown, text)


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

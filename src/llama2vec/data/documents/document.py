"""A document as a reader gives it: its text, the structure that a splitter follows, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llama2vec.records import Value


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document's text that stays whole where it fits; the blocks of a document cover its text in order."""

    begin: int  # First character in the document's text
    end: int  # The character after the last one, the blank lines that follow included
    kind: Literal["text", "heading", "table", "code"] = "text"
    headings: tuple[str, ...] = ()  # The headings it stands under, outermost first; a heading's own is the last
    page: int | None = None  # From 1


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file, or of one row or message of it.

    Attributes:
        lines: What line numbers count: ``file`` = the lines of the file, whose text this is; ``page`` = those of each
            page; ``row`` = all of the text stands at ``first_line``, such as the cells of a row; ``none`` = nothing,
            where the text was taken out of markup.
        problems: What of the file is missing from the text, in words that end a sentence "partly read: …".
    """

    id: str  # Path relative to the folder, with ``#ROW`` or ``!MEMBER`` for a part of a file; unique in a file
    text: str
    title: str = ""
    blocks: tuple[Block, ...] = ()  # Empty = one block of text
    lines: Literal["file", "page", "row", "none"] = "file"
    first_line: int = 1  # Number of the text's first line in the file, for a row or a cell
    fields: Mapping[str, Value] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

"""Where a part of a document stands: its lines and its page."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from llama2vec.data.documents.document import Document
from llama2vec.records import Place


class Places:
    """Finds the lines and pages of one document's characters."""

    def __init__(self, document: Document) -> None:
        self._document = document
        counted = document.text if document.lines in ("file", "page") else ""
        self._line_ends = [end.start() for end in re.finditer("\n", counted)]
        blocks = [block for block in document.blocks if block.page is not None]
        starts = [block for number, block in enumerate(blocks) if not number or block.page != blocks[number - 1].page]
        self._pages = [block.page for block in starts]
        self.page_begins: Sequence[int] = [block.begin for block in starts]

    def of(self, begin: int, end: int) -> Place:
        """Return the place of the characters [begin, end)."""
        last = max(begin, end - 1)
        page = self._page(begin)
        number = self._pages[page] if page >= 0 else None
        return Place(self._document.id, begin, end, self._line(begin), self._line(last), number)

    def _page(self, character: int) -> int:
        return bisect_right(self.page_begins, character) - 1

    def _line(self, character: int) -> int | None:
        if self._document.lines == "none":
            return None
        before = bisect_left(self._line_ends, character)
        if self._document.lines in ("file", "row"):
            return self._document.first_line + before
        page = self._page(character)
        return 1 + before - (bisect_left(self._line_ends, self.page_begins[page]) if page >= 0 else 0)


def stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return the span [begin, end) of a text without the white space at its ends.

    >>> stripped("a  llama ", 1, 9)
    (3, 8)
    """
    part = text[begin:end]
    inner = part.strip()
    if inner:
        begin += len(part) - len(part.lstrip())
    return begin, begin + len(inner)

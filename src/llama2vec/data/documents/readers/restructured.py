"""reStructuredText: the file's own text, with section titles, literal blocks and tables as blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import Part, line_blocks
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings

_RULE = re.compile(r"([!-/:-@\[-`{-~])\1{2,}$")
_ROLE = re.compile(
    r":[\w:-]+:`~?([^`<]+?)(?: ?<[^>]*>)?`|``([^`]+)``|`([^`<]+?)(?: ?<[^>]*>)?`_{0,2}|\*{1,2}([^*]+)\*{1,2}"
)
_CODE = re.compile(
    r"\.\. (?:code-block|code|sourcecode|highlight|parsed-literal|prompt|doctest|testcode|literalinclude)::"
)
_TABLE = re.compile(r"[=+][-=+ ]*[=+]$")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the file as one document whose title is its first section title."""
    text = decoded(data, settings.encoding)
    parts = list(restructured_parts(text.split("\n")))
    title = next((part.headings[-1] for part in parts if part.headings), "")
    yield Document(name, text, title, line_blocks(text, parts))


def restructured_parts(lines: list[str]) -> Iterator[Part]:
    """Yield where the blocks begin; the order in which title styles appear gives their levels, as docutils has it."""
    styles: list[str] = []
    headings: list[str] = []
    number = 0
    while number < len(lines):
        if found := _title(lines, number):
            style, words, used = found
            if style not in styles:
                styles.append(style)
            level = styles.index(style)
            headings = [*headings[:level], plain_words(words)]
            yield Part(number, "heading", tuple(headings))
            number += used
            yield Part(number, "text", tuple(headings))
            continue
        line = lines[number]
        if _opens_code(line):
            end = _indented(lines, number + 1)
            if end > number + 1:
                yield Part(number if line.lstrip().startswith("..") else number + 1, "code", tuple(headings))
                yield Part(end, "text", tuple(headings))
                number = end
                continue
        elif _TABLE.match(line) and ("+" in line or " " in line.strip()):
            end = _table_end(lines, number)
            if end > number + 1:
                yield Part(number, "table", tuple(headings))
                yield Part(end, "text", tuple(headings))
                number = end
                continue
        number += 1


def _title(lines: list[str], number: int) -> tuple[str, str, int] | None:
    """Return (style, title, lines used) of a section title that begins on a line."""
    here, below, last = ([*lines[number : number + 3], "", "", ""])[:3]
    if _RULE.match(here) and below.strip() and here.rstrip() == last.rstrip() and not _RULE.match(below.strip()):
        return f"{here[0]}over", below.strip(), 3
    if here.strip() and not here[0].isspace() and _RULE.match(below) and len(below.rstrip()) + 2 >= len(here.rstrip()):
        before = lines[number - 1] if number else ""
        if not before.strip() and not _RULE.match(here) and not here.startswith(".. "):
            return below[0], here.strip(), 2
    return None


def _opens_code(line: str) -> bool:
    stripped = line.strip()
    return bool(_CODE.match(stripped)) or (stripped.endswith("::") and not stripped.startswith(".."))


def _indented(lines: list[str], number: int) -> int:
    """Return the line after the indented and blank lines that begin at ``number``; blank ones at the end count in."""
    end = number
    while end < len(lines) and (not lines[end].strip() or lines[end][0].isspace()):
        end += 1
    return end if any(line.strip() for line in lines[number:end]) else number


def _table_end(lines: list[str], number: int) -> int:
    """Return the line after a grid table, or after a simple one's last rule."""
    if "+" in lines[number]:
        end = number
        while end < len(lines) and lines[end][:1] in ("+", "|"):
            end += 1
        return end
    end = last = number
    while end < len(lines) and (lines[end].strip() or (end + 1 < len(lines) and lines[end + 1].strip())):
        if _TABLE.match(lines[end]):
            last = end
            if end > number and not (lines[end + 1 : end + 2] or [""])[0].strip():
                break
        end += 1
    return last + 1 if last > number else number


def plain_words(markup: str) -> str:
    """Return a title without roles and emphasis.

    >>> plain_words("The :mod:`re` module and *more*")
    'The re module and more'
    """
    return " ".join(_ROLE.sub(lambda match: next(filter(None, match.groups()), ""), markup[:1000]).split())

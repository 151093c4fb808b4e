"""Source code: one document a file, one block for each definition at the left margin."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import Part, line_blocks, unescaped
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings

_DEFINITION = re.compile(
    r"(?:(?:export|default|public|private|protected|static|final|abstract|async|pub(?:\(\w+\))?|unsafe|extern|inline"
    r"|const|open|override|local) +)*"
    r"(?:def|class|func|function|fn|struct|enum|trait|impl|interface|module|namespace|type|object|sub|macro)"
    r"\b\s*(?:\([^)]*\)\s*)?(\w[\w.$]*(?:::\w+)*)"
)
_OPENS = re.compile(r"[^\s*})\]]")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the file as one document; a definition that a line without indentation opens names its block."""
    text = decoded(data, settings.encoding)
    if name.lower().endswith(".properties"):
        text = unescaped(text)
    title = name.rpartition("/")[2] if text.strip() else ""
    yield Document(name, text, title, line_blocks(text, _parts(text.split("\n"))))


def _parts(lines: list[str]) -> Iterator[Part]:
    """Yield a part for each run of lines that a blank line and an unindented one begin."""
    begin = 0
    headings: tuple[str, ...] = ()
    after_blank = True
    for number, line in enumerate(lines):
        if after_blank and _OPENS.match(line) and number:
            yield Part(begin, "code", headings)
            begin, headings = number, ()
        # A decorator or a comment comes first; the definition follows within the same part.
        if not headings and (match := _DEFINITION.match(line)):
            headings = (match[1],)
        after_blank = not line.strip()
    yield Part(begin, "code", headings)

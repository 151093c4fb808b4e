"""Rich text (RTF): its paragraphs, notes and boxes, without fonts, pictures and fields' codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.terminal import counted

START = b"{\\rtf"
_APART = re.compile(r"\{(?:\\\*)?\s?\\(footnote|shptxt)\b ?")
"""The beginning of a note or a box, whose text striprtf leaves out."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_EQUATION = re.compile(r"\\moMath\b")


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the text as one document, with its notes and boxes at the end."""
    from striprtf.striprtf import rtf_to_text

    if not data.lstrip().startswith(START):
        raise UnreadableError("damaged (it does not begin as RTF)")
    encoding = "cp1252" if settings.encoding == "auto" else settings.encoding  # of what names no code page
    # RTF is ASCII; other bytes are of the code page.
    source = data.decode("latin-1")
    convert: Any = rtf_to_text  # The package has no types
    text: str = convert(_with_parts_last(source), encoding=encoding, errors="replace")
    builder = TextBuilder()
    for paragraph in text.splitlines():
        builder.add(paragraph)
    equations = len(_EQUATION.findall(source))
    yield builder.document(name, problems=[f"{counted(equations, 'equation')} left out"] if equations else [])


def _with_parts_last(source: str) -> str:
    r"""Return an RTF text with its notes, which leave their number, and its boxes as paragraphs at its end.

    >>> _with_parts_last(r"{\rtf1 A{\footnote B} C\par}")
    '{\\rtf1 A[1] C\\par\\par {[1] B}}'
    """
    kept, parts = [], []
    place = notes = 0
    while begin := _APART.search(source, place):
        end = _group_end(source, begin.end())
        if not end:
            break
        mark = ""
        if begin[1] == "footnote":
            notes += 1
            mark = f"[{notes}]"
        kept += [source[place : begin.start()], mark]
        parts.append(f"\\par {{{mark} {source[begin.end() : end]}")
        place = end
    kept.append(source[place:])
    body = "".join(kept)
    end = body.rfind("}") if body.rstrip("\0\r\n ").endswith("}") else len(body)  # A file that was cut lacks it
    return f"{body[:end]}{''.join(parts)}{body[end:]}"


def _group_end(source: str, place: int) -> int:
    """Return where a group ends whose content begins at ``place``, 0 where it does not end."""
    depth = 1
    for found in _BRACE.finditer(source, place):
        depth += (found[0] == "{") - (found[0] == "}")
        if not depth:
            return found.end()
    return 0

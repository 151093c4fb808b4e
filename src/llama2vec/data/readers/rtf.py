"""Rich text (RTF): its paragraphs, without fonts, pictures and fields' codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.building import TextBuilder
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError

START = b"{\\rtf"


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the text as one document."""
    from striprtf.striprtf import rtf_to_text

    if not data.lstrip().startswith(START):
        raise UnreadableError("damaged (it does not begin as RTF)")
    encoding = "cp1252" if settings.encoding == "auto" else settings.encoding  # of what names no code page
    # RTF is ASCII; other bytes are of the code page.
    convert: Any = rtf_to_text  # The package has no types
    text: str = convert(data.decode("latin-1"), encoding=encoding, errors="replace")
    builder = TextBuilder()
    for paragraph in text.splitlines():
        builder.add(paragraph)
    yield builder.document(name)

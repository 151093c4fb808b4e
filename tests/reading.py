"""One document of a file's bytes, and its blocks as short tuples."""

from __future__ import annotations

import pytest

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers import read_bytes
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError


def only_document(name: str, content: str | bytes, **settings: object) -> Document:
    """Return the one document that a file holds."""
    [document] = documents(name, content, **settings)
    return document


def documents(name: str, content: str | bytes, **settings: object) -> list[Document]:
    """Return the documents of a file, each covered by its blocks."""
    data = content.encode() if isinstance(content, str) else content
    found = read_bytes(data, name, ReadingSettings.model_validate(settings))
    for one in found:
        assert_covered(one)
    return found


def assert_covered(document: Document) -> None:
    """Check that the blocks of a document cover its text in order."""
    if document.blocks:
        edges = [0, *(edge for block in document.blocks for edge in (block.begin, block.end)), len(document.text)]
        assert edges[::2] == edges[1::2]


def blocks(document: Document) -> list[tuple[str, tuple[str, ...], str]]:
    """Return (kind, headings, text) of each block."""
    return [(one.kind, one.headings, document.text[one.begin : one.end].strip("\n")) for one in document.blocks]


def refusal(name: str, content: str | bytes, **settings: object) -> str:
    """Return why a file cannot be read."""
    with pytest.raises(UnreadableError) as caught:
        documents(name, content, **settings)
    return str(caught.value)

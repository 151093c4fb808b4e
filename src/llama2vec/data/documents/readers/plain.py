"""Plain text: the whole file, with a first line that stands alone as its title."""

from __future__ import annotations

from collections.abc import Iterator

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the text as one document; line numbers are the file's."""
    yield Document(name, decoded(data, settings.encoding))

"""XML texts such as DocBook, DITA, TEI and FictionBook: titles as headings, paragraphs and code without their tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.archives import parsed_xml
from llama2vec.data.readers.building import TextBuilder, decoded
from llama2vec.data.settings import ReadingSettings

_TITLES = frozenset(("title", "head", "bridgehead", "subject"))
_CODE = frozenset(("programlisting", "screen", "literallayout", "codeblock", "synopsis", "pre", "msgblock"))
_LEFT_OUT = frozenset(("indexterm", "remark", "binary", "stylesheet"))


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the words as one document; a file whose words are all in its tags is read as it is."""
    builder = TextBuilder()
    root = parsed_xml(data)
    for element in list(root.iter("*")):
        if _tag(element) in _LEFT_OUT:
            element.clear(keep_tail=True)
    _add(builder, root)
    document = builder.document(name)
    yield document if document.text.strip() else Document(name, decoded(data, settings.encoding))


def _tag(element: Any) -> str:
    return str(element.tag).rpartition("}")[2].lower()


def _add(builder: TextBuilder, root: Any) -> None:
    """Add elements in order, with a stack of its own: files nest deeper than Python may call."""
    stack = [(root, 0)]
    while stack:
        element, depth = stack.pop()
        if not isinstance(element.tag, str):  # a comment or an instruction
            continue
        tag = _tag(element)
        if tag in _TITLES:
            builder.heading(depth, "".join(element.itertext()))
        elif tag in _CODE:
            builder.add("".join(element.itertext()), "code")
        elif _holds_words(element):
            builder.add(" ".join("".join(element.itertext()).split()))
        else:
            stack += [(child, depth + 1) for child in reversed(element)]


def _holds_words(element: Any) -> bool:
    """Tell whether an element has text of its own, between its children included."""
    return any(text and text.strip() for text in (element.text, *(child.tail for child in element)))

"""XML texts such as DocBook, DITA, TEI and FictionBook: titles as headings, paragraphs and code without their tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.archives import parsed_xml
from llama2vec.data.documents.readers.building import Fault, TextBuilder
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.workbook import XML_2003, xml_sheets
from llama2vec.data.settings import ReadingSettings

_TITLES = frozenset(("title", "head", "bridgehead", "subject"))
_CODE = frozenset(("programlisting", "screen", "literallayout", "codeblock", "synopsis", "pre", "msgblock"))
_BREAKS = frozenset(("lb", "br", "sbr", "break"))
_LEFT_OUT = frozenset(("indexterm", "remark", "binary", "stylesheet"))


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document | Fault]:
    """Yield the words as one document; a file whose words are all in its tags is read as it is.

    A workbook, as Excel 2003 writes it, is read as one.
    """
    builder = TextBuilder()
    problems: list[str] = []
    root = parsed_xml(data, problems, settings.encoding)
    if str(root.tag).encode() == b"{%s}Workbook" % XML_2003:
        yield from xml_sheets(root, name, settings)
        for problem in problems:
            yield Fault("", problem)
        return
    _add(builder, root)
    document = builder.document(name, problems=problems)
    yield document if document.text.strip() else Document(name, decoded(data, settings.encoding))


def _tag(element: Any) -> str:
    """Return the name of an element in lower case, "" for a comment or an instruction."""
    return str(element.tag).rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def _add(builder: TextBuilder, root: Any) -> None:
    """Add elements in order, with a stack of its own: files nest deeper than Python may call."""
    stack = [(root, 0)]
    while stack:
        element, depth = stack.pop()
        tag = _tag(element)
        if not tag or tag in _LEFT_OUT:
            continue
        if tag in _TITLES:
            builder.heading(depth, _text(element))
        elif tag in _CODE:
            builder.add(_text(element, is_code=True), "code")
        elif _holds_words(element):
            builder.add(" ".join(_text(element).split()))
        else:
            stack += [(child, depth + 1) for child in reversed(element)]


def _holds_words(element: Any) -> bool:
    """Tell whether an element has text of its own, between its children included."""
    return any(text and text.strip() for text in (element.text, *(child.tail for child in element)))


def _text(root: Any, *, is_code: bool = False) -> str:
    """Return the text of an element, with space where the words of two elements would join, or lines of code."""
    parts: list[str] = []
    stack: list[Any] = [root]
    while stack:
        element = stack.pop()
        if isinstance(element, str):
            parts.append(element)
            continue
        before = element.text or ""
        inside: list[Any] = [before]
        for number, child in enumerate(element):
            tag, after = _tag(child), child.tail or ""
            if not tag or tag in _LEFT_OUT:
                pass
            elif is_code:
                inside.append("\n" if tag in _BREAKS else child)
            else:
                # Within a word stands only markup such as emphasis: letters before it, and some of its own.
                is_apart = (number > 0 and not before) or not _holds_words(child)
                inside += [" ", child, " "] if is_apart else [child]
            inside.append(after)
            before = after
        stack += reversed(inside)
    return "".join(parts)

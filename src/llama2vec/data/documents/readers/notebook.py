"""Jupyter notebooks: text and code cells in order, with the text that the code printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.markdown import markdown_parts
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.terminal import counted

_MOST_OUTPUT = 2000
"""Characters of a cell's output that are kept: tables of numbers and logs run on for pages."""


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the notebook as one document; headings of its text cells are headings of the cells that follow."""
    try:
        notebook: Any = json.loads(decoded(data, settings.encoding))
    except ValueError:
        raise UnreadableError("its JSON is damaged or cut") from None
    sheets = notebook.get("worksheets") if isinstance(notebook, dict) else None
    cells = notebook.get("cells") if not sheets and isinstance(notebook, dict) else sheets and sheets[0].get("cells")
    if not isinstance(cells, list):
        raise UnreadableError("is not a notebook: it holds no list of cells")
    builder = TextBuilder()
    cut = 0
    for cell in cells:
        source = _joined(cell.get("source", cell.get("input", "")))
        if cell.get("cell_type") == "code":
            builder.add(source, "code")
            printed = "\n".join(filter(None, map(_printed, cell.get("outputs") or [])))
            cut += len(printed) > _MOST_OUTPUT
            builder.add(printed[:_MOST_OUTPUT], "code")
        elif cell.get("cell_type") == "markdown":
            _add_markdown(builder, source)
        else:
            builder.add(source)
    problems = [f"{counted(cut, 'output')} beyond {_MOST_OUTPUT:,} characters"] if cut else []
    yield builder.document(name, problems=problems)


def _joined(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def _printed(output: Any) -> str:
    found = output.get("text") or (output.get("data") or {}).get("text/plain") or ""
    return _joined(found).strip("\n")


def _add_markdown(builder: TextBuilder, source: str) -> None:
    lines = source.split("\n")
    parts = list(markdown_parts(source))
    ends = [*(part.line for part in parts[1:]), len(lines)]
    for part, end in zip(parts, ends, strict=False):  # A blank cell has no parts
        text = "\n".join(lines[part.line : end])
        if part.kind == "heading" and part.headings:
            builder.enter(_level(text.strip()), part.headings[-1])
        builder.add(text, part.kind)


def _level(heading: str) -> int:
    r"""Return the level of a heading that ``#`` opens, or that a line of ``=`` or ``-`` closes.

    >>> _level("### Wool"), _level("Wool\n===="), _level("Wool\n----")
    (3, 1, 2)
    """
    return len(heading) - len(heading.lstrip("#")) or (1 if heading.endswith("=") else 2)

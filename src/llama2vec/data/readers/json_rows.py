"""JSON and JSON lines: an object is a document; one field is its text, the other scalars its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llama2vec.data.documents import Document
from llama2vec.data.readers.building import decoded
from llama2vec.data.readers.markdown import scalars
from llama2vec.data.readers.tables import TITLES
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError

_TEXTS = ("text", "contents", "content", "body", "passage", "abstract", "description", "answer", "message")
_IDS = ("_id", "id", "docid", "doc_id", "pid", "passage_id")
_NAMED_FAULTS = 3


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the objects ``FILE#ID``, or ``FILE#NUMBER`` where they have no id; another JSON file is read as text."""
    text = decoded(data, settings.encoding)
    if name.lower().endswith(".json"):
        yield from _whole(text, name, settings)
    else:
        yield from _lines(text, name, settings)


def _whole(text: str, name: str, settings: ReadingSettings) -> Iterator[Document]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # Comments, several objects, a cut file: its words are still there.
        yield Document(name, text)
        return
    rows = _rows_of(value)
    if not rows:
        yield Document(name, text)
        return
    yield from _documents(enumerate(rows, start=1), name, settings, lines=False)


def _rows_of(value: Any) -> list[Mapping[str, Any]]:
    """Return the longest list of objects: the file itself, or a field of its one object; an article is one row."""
    if isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list) and one]
        objects = [one for one in lists if all(isinstance(row, dict) for row in one)]
        if objects:
            value = max(objects, key=len)
        elif isinstance(value.get("text"), str):
            value = [value]
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value
    return []


def _lines(text: str, name: str, settings: ReadingSettings) -> Iterator[Document]:
    faults: list[int] = []

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                faults.append(number)

    yield from _documents(rows(), name, settings, lines=True)
    if faults:
        shown = ", ".join(map(str, faults[:_NAMED_FAULTS])) + (", …" if len(faults) > _NAMED_FAULTS else "")
        what = "1 line is not a JSON object" if len(faults) == 1 else f"{len(faults):,} lines are not JSON objects"
        raise UnreadableError(f"{what} (line {shown})")


def _documents(
    rows: Iterable[tuple[int, Mapping[str, Any]]], name: str, settings: ReadingSettings, *, lines: bool
) -> Iterator[Document]:
    seen: set[str] = set()
    without = 0
    for number, row in rows:
        text_field = settings.text_field or _text_field(row)
        text = row.get(text_field)
        if not isinstance(text, str):
            without += 1
            continue
        id_field = settings.id_field or next((one for one in _IDS if one in row), "")
        title_field = settings.title_field or next((one for one in TITLES if one in row and one != text_field), "")
        found = row.get(id_field)
        row_id = str(found) if isinstance(found, str | int) and str(found).strip() else str(number)
        if row_id in seen:
            row_id = f"{row_id}@{number}"
        seen.add(row_id)
        title = row.get(title_field)
        used = {text_field, id_field, title_field if isinstance(title, str) else ""}
        fields = scalars({key: value for key, value in row.items() if key not in used})
        where: Any = ("row", number) if lines else ("none", 1)
        shown = " ".join(title.split()) if isinstance(title, str) else ""
        yield Document(f"{name}#{row_id}", text, shown, lines=where[0], first_line=where[1], fields=fields)
    if without:
        field = settings.text_field or "a text"
        rows_have = "1 row has" if without == 1 else f"{without:,} rows have"
        raise UnreadableError(f"{rows_have} no {field}; name the field that holds it (text_field)")


def _text_field(row: Mapping[str, Any]) -> str:
    """Return the field that holds the text: one of a usual name, else the longest text."""
    texts = {key: len(value) for key, value in row.items() if isinstance(value, str) and value.strip()}
    named = next((one for one in _TEXTS if one in texts), None)
    return named or max(texts, key=lambda key: texts[key], default="")

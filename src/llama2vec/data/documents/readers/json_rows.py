"""JSON and JSON lines: an object is a document; one field begins its text, other scalars end it and are its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import unescaped
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.markdown import scalars
from llama2vec.data.documents.readers.table_rows import TITLES
from llama2vec.data.documents.readers.values import mentioned
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.words import estimated_words
from llama2vec.errors import UnreadableError
from llama2vec.records import Value
from llama2vec.terminal import counted, first_few

_TEXTS = ("text", "contents", "content", "body", "passage", "abstract", "description", "answer", "message")
_IDS = ("_id", "id", "docid", "doc_id", "pid", "passage_id")
_TEXT_WORDS = 5  # A text of so many words next to the list of a file's rows is a row too


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the objects ``FILE#ID``, or ``FILE#NUMBER`` where they have no id; another JSON file is read as text."""
    text = decoded(data, settings.encoding)
    if name.lower().endswith((".json", ".geojson")):
        yield from _whole(text, name, settings)
    else:
        yield from _lines(text, name, settings)


def _whole(text: str, name: str, settings: ReadingSettings) -> Iterator[Document]:
    try:
        value = _loaded(text)
    except (ValueError, RecursionError):
        if name.lower().endswith(".geojson"):  # Often a feature on each line
            yield from _lines(text, name, settings)
        else:  # Comments, several objects, a cut file: its words are still there
            yield Document(name, unescaped(text))
        return
    rows, left_out = _rows_of(value, settings.text_field)
    if not rows:
        yield Document(name, unescaped(text))
        return
    yield from _documents(enumerate(rows, start=1), name, settings, lines=False)
    if left_out:
        raise UnreadableError(f"{counted(len(left_out), 'nested value')} left out ({first_few(left_out)})")


def _loaded(text: str) -> Any:
    """Return the value of a JSON text; a number that is too large for a computer's stays as it is written."""

    def number(digits: str) -> Value:
        return float(digits) if isfinite(float(digits)) else digits

    return json.loads(text, parse_float=number)


def _rows_of(value: Any, text_field: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the rows of a file, and which other values are left out; no rows: the file is read as text.

    Rows are a list of objects: the file itself, or the one such list in its object, if most of what is nested is there
    or the caller names their text. An OpenAPI file, which keeps most elsewhere, is read as text.
    """
    rest: dict[str, Any] = {}
    left_out: list[str] = []
    if isinstance(value, dict):
        nested = _nested(value)
        tables = [key for key, one in nested.items() if _is_table(one)]
        others = {key: one for key, one in nested.items() if key not in tables}
        if len(tables) == 1 and (text_field or _size(value[tables[0]]) > _size(others)):
            texts = {key: one for key, one in value.items() if isinstance(one, str) and one.strip()}
            is_long = not text_field and any(estimated_words(one) >= _TEXT_WORDS for one in texts.values())
            rest = scalars(value) if is_long or (text_field or "text") in texts else {}
            value, left_out = value[tables[0]], list(others)
        elif not tables and isinstance(value.get("text"), str):
            value, left_out = [value], list(nested)
    return ([*value, *([rest] if rest else [])], left_out) if _is_table(value) else ([], [])


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False))


def _nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that no field can hold: objects, and lists of more than texts and numbers."""
    fields = scalars(row)
    return {key: value for key, value in row.items() if value and key not in fields}


def _lines(text: str, name: str, settings: ReadingSettings) -> Iterator[Document]:
    faults: list[str] = []

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = _loaded(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                faults.append(str(number))

    yield from _documents(rows(), name, settings, lines=True)
    if faults:
        what = "1 line is not a JSON object" if len(faults) == 1 else f"{len(faults):,} lines are not JSON objects"
        raise UnreadableError(f"{what} (line {first_few(faults)})")


def _documents(
    rows: Iterable[tuple[int, Mapping[str, Any]]], name: str, settings: ReadingSettings, *, lines: bool
) -> Iterator[Document]:
    seen: set[str] = set()
    without = 0
    for number, row in rows:
        text_field = settings.text_field or _text_field(row)
        text = row.get(text_field) if text_field or not _nested(row) else json.dumps(row, ensure_ascii=False)
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
        shown = " ".join(title.split()) if isinstance(title, str) else ""
        used = {text_field, title_field if isinstance(title, str) else ""}
        others = scalars({key: value for key, value in row.items() if key not in used})
        if text_field and not settings.text_field:  # What the other fields say is worth finding, too.
            text = "\n".join(filter(None, (text, mentioned(others, without=(shown, text)))))
        fields = {key: value for key, value in others.items() if key != id_field}
        where: Any = ("row", number) if lines else ("none", 1)
        yield Document(f"{name}#{row_id}", text, shown, lines=where[0], first_line=where[1], fields=fields)
    if without:
        field = settings.text_field or "text"
        rows_have = "1 row has" if without == 1 else f"{without:,} rows have"
        raise UnreadableError(f"{rows_have} no {field}; name the field that holds it (text_field)")


def _text_field(row: Mapping[str, Any]) -> str:
    """Return the field that holds the text: one of a usual name, else the longest text; "" where more is nested."""
    texts = {key: len(value) for key, value in row.items() if isinstance(value, str) and value.strip()}
    named = next((one for one in _TEXTS if one in texts), None)
    longest = named or max(texts, key=lambda key: texts[key], default="")
    nested = {} if named else _nested(row)
    return "" if nested and _size(nested) > texts.get(longest, 0) else longest

"""Rows of JSON lines, tables and data sets → id, title, text and place; every fault names the row."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from llama2vec.data.corpus.rows import pretext_row, row_fields, row_place
from llama2vec.data.corpus.sources import reported
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.lines import columns_in, header_columns, json_object, numbered_lines
from llama2vec.errors import CorpusFormatError
from llama2vec.records import Place, Value


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read, and where."""

    where: str
    id: str
    text: str
    title: str = ""
    place: Place | None = None
    fields: Mapping[str, Value] = field(default_factory=dict)


class FieldNames(NamedTuple):
    """Which fields of a row are its id, text and title; of several names the first that the row has."""

    ids: tuple[str, ...] = ("_id", "id")
    texts: tuple[str, ...] = ("text",)
    title: str = "title"
    hints: bool = False  # Whether the command takes settings that name them
    labeled: bool = False  # Whether rows of labeled examples are meant too: the number stands in for their id


IR_FIELDS, _HUB_FIELDS = FieldNames(("_id",)), FieldNames(("_id", "id", "docid"))
_LABELED = "query"


def passage_fields(settings: ReadingSettings | None) -> FieldNames:
    """Return the fields of passages; None where the command takes no settings."""
    if settings is None:
        return FieldNames()
    ids = (settings.id_field,) if settings.id_field else FieldNames().ids
    return FieldNames(ids, (settings.text_field or "text",), settings.title_field or "title", hints=True)


def query_fields(settings: ReadingSettings | None, *, labeled: bool = False) -> FieldNames:
    """Return the fields of queries, which have those of passages or the usual ones."""
    usual, own = FieldNames(), passage_fields(settings)
    texts = (*own.texts, *usual.texts, *((_LABELED,) if labeled else ()))
    ids = tuple(dict.fromkeys((*own.ids, *usual.ids)))
    return own._replace(ids=ids, texts=tuple(dict.fromkeys(texts)), labeled=labeled)


def jsonl_rows(path: Path, names: FieldNames) -> Iterator[Row]:
    """Stream the objects of a file of JSON lines."""
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        values = json_object(line, where, '{"_id": "1", "text": "…"}')
        row = _pretext_row(values, where, f"{path.name}:{number}")
        if row is None:
            # Examples need no id, and several may have one.
            if names.labeled and next((name for name in names.texts if name in values), "") == _LABELED:
                values = {**values, names.ids[0]: f"{path.name}:{number}"}
            row = parsed_row(values, where, names)
        # Only an escape can smuggle half a surrogate pair into a decoded line.
        if "\\u" in line:
            _check_unicode(row)
        yield row


def hub_rows(dataset: Iterable[Mapping[str, object]], where: str) -> Iterator[Row]:
    """Stream the rows of a data set."""
    for number, values in enumerate(reported(dataset, where)):
        row = f"{where}, row {number},"
        yield _pretext_row(values, row, str(number)) or parsed_row(values, row, _HUB_FIELDS, number)


def _pretext_row(values: Mapping[str, object], where: str, row_id: str) -> Row | None:
    found = pretext_row(values, where)
    return Row(where, row_id, found[0], fields=found[1]) if found else None


def parsed_row(values: Mapping[str, object], where: str, names: FieldNames, number: int | None = None) -> Row:
    """Check one row's fields; ``number`` stands in for a missing id where it is given."""
    id_name = next((name for name in names.ids if name in values), None)
    if id_name is None and number is None:
        hint = ", or name its field (reading.id_field)" if names.hints else ""
        raise CorpusFormatError(f'{where} has no "{names.ids[0]}"; give each row an id{hint}')
    text_name, title_name = next((name for name in names.texts if name in values), ""), names.title
    if not text_name:
        known, wanted = ", ".join(map(str, list(values)[:6])), '" or "'.join(names.texts)
        hint = ", or name its field (reading.text_field)" if names.hints else ""
        raise CorpusFormatError(f'{where} has no "{wanted}" (only {known}); put the passage or query there{hint}')
    row_id, text, title = values[id_name] if id_name else number, values[text_name], values.get(title_name)
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    if not isinstance(row_id, str) or not row_id.strip():
        problem = f"has the {id_name} {reprlib.repr(row_id)}"
        raise CorpusFormatError(f"{where} {problem}; an id is a string that is not empty, or a whole number")
    for name, value in ((text_name, text), (title_name, title or "")):
        if not isinstance(value, str):
            raise CorpusFormatError(f"{where} has the {name} {reprlib.repr(value)}; a {name} is a string")
    used = (id_name, text_name, title_name)
    fields = row_fields({key: value for key, value in values.items() if key not in used})
    return Row(where, row_id, cast(str, text), cast(str, title or ""), row_place(values, where), fields)


def _check_unicode(row: Row) -> None:
    fields = [(name, text) for name, value in row.fields.items() for text in (name, value) if isinstance(text, str)]
    for name, value in (("id", row.id), ("title", row.title), ("text", row.text), *fields):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            problem = f"has half a surrogate pair ({half}) in its {name}"
            raise CorpusFormatError(f"{row.where} {problem}; repair the text") from None


def tsv_rows(path: Path, most_columns: int) -> Iterator[Row]:
    """Stream the rows of a table, by its header if it has one."""
    columns: dict[str, int] = {}
    width = first_line = 0
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        fields = line.split("\t")
        if not 2 <= len(fields) <= most_columns:
            wanted = "id, text" if most_columns == 2 else "id, text or id, title, text"
            raise CorpusFormatError(f"{where} has {columns_in(fields)}; write {wanted} with tabs between")
        if not width:
            width, first_line = len(fields), number
            header = header_columns(fields, where)
            columns = header or {"id": 0, "text": width - 1} | ({"title": 1} if width == 3 else {})
            if header:
                continue
        if len(fields) != width:
            problem = f"has {columns_in(fields)} where line {first_line} has {width}"
            raise CorpusFormatError(f"{where} {problem}; is a tab inside a text?")
        if not fields[columns["id"]].strip():
            raise CorpusFormatError(f"{where} has no id in column {columns['id'] + 1}; give each row an id")
        title = fields[columns["title"]] if "title" in columns else ""
        yield Row(where, fields[columns["id"]], fields[columns["text"]], title)

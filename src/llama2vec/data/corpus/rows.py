"""A passage as one JSON object: a line of a store's shard, and a row of a corpus that ``read`` wrote."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from llama2vec.errors import ConfigError, CorpusFormatError, DataError
from llama2vec.files import FileKind, check_new, write_output
from llama2vec.records import Passage, Place, Value

CORPUS_FILE = FileKind("passages that `llama2vec read` wrote", rb'\{"id": "')
PRETEXT_FIELDS = ("output_summarize", "output_predict")
"""Fields of a row of the authors' adaptation data: the text itself, and the text that follows it."""
_NO_FIELDS = frozenset({"_id", "id", "text", "title", "place", "fields", "metadata"})
_PLACE = {one.name: one.name == "document" for one in fields(Place)}


def passage_line(passage: Passage) -> bytes:
    r"""Return a passage as a line of JSON; ``place`` and ``fields`` only where it has them.

    >>> passage_line(Passage("1", "A camelid."))
    b'{"id": "1", "title": "", "text": "A camelid."}\n'
    """
    row: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text}
    if passage.place is not None:
        # asdict takes ten times as long.
        values = {name: getattr(passage.place, name) for name in _PLACE}
        row["place"] = {name: value for name, value in values.items() if value is not None}
    if passage.fields:
        row["fields"] = dict(passage.fields)
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        return (json.dumps(row) + "\n").encode()


def write_passages(
    passages: Iterable[Passage], path: Path, *, inputs: Iterable[str | Path] = (), overwrite: bool = False
) -> int:
    """Write passages as a JSONL corpus, which ``read_passages`` reads back; return how many.

    Raises:
        OutputExistsError: The file exists (without ``overwrite``), holds something else, or is or lies in an input.
        ConfigError: The name of the file does not end in ``.jsonl``.
    """
    if not path.name.endswith(".jsonl"):
        raise ConfigError(f"{path} cannot hold passages; give a path that ends in .jsonl")
    check_new(path, overwrite=overwrite, inputs=inputs, kind=CORPUS_FILE)
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for passage in passages:
            count += 1
            yield passage_line(passage)

    write_output(path, lines(), CORPUS_FILE, overwrite=overwrite)
    return count


def passage_of(row: Mapping[str, Any]) -> Passage:
    """Return the passage that :func:`passage_line` wrote as this object."""
    place = row.get("place")
    return Passage(row["id"], row["text"], row["title"], place and Place(**place), row.get("fields") or {})


def row_fields(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return what a row of a corpus says about its passage besides id, title and text, to filter by.

    These are the strings, numbers and truth values among its other keys, in its ``metadata`` object (as BEIR writes
    it) and in ``fields`` (as :func:`passage_line` writes it); the last of these wins. Lists and objects are left out.

    >>> row_fields({"_id": "1", "text": "…", "year": 2020, "metadata": {"url": "https://x.org", "tags": []}})
    {'url': 'https://x.org', 'year': 2020}
    """
    extra = {name: value for name, value in values.items() if name not in _NO_FIELDS}
    nested = [values[name] if isinstance(values.get(name), Mapping) else {} for name in ("metadata", "fields")]
    found = {**nested[0], **extra, **nested[1]}
    plain = {str(name): plain_value(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if _is_field(value)}


def passage_fields(fields: Mapping[str, Any], owner: str) -> dict[str, Value]:
    """Return the fields that a program gave a passage, without the missing ones; ``owner`` names it in an error.

    >>> passage_fields({"year": 2020, "score": float("nan"), "author": None}, "text 0")
    {'year': 2020}

    Raises:
        DataError: They are not a mapping, a name is not a string, or a value is of another type than a field can hold.
    """
    if not isinstance(fields, Mapping):
        raise DataError(f"the fields of {owner} are of type {type(fields).__name__}; give a dict")
    found: dict[str, Value] = {}
    for name, given in fields.items():
        value = plain_value(given)
        if not isinstance(name, str):
            raise DataError(f"{owner} has the field {name!r}; the name of a field is a string")
        if is_missing(value):
            continue
        if not _is_field(value):
            kind = f"is {value}" if isinstance(value, float) else f"is of type {type(value).__name__}"
            raise DataError(f"the field {name!r} of {owner} {kind}; give a string, a finite number, true or false")
        found[name] = value
    return found


def plain_value(value: Any) -> Any:
    """Return a number of numpy or torch as Python's own, anything else as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (TypeError, ValueError, RuntimeError):  # An array of several
        return value


def is_missing(value: Any) -> bool:
    """Tell whether a value stands for none: None, NaN, or what pandas writes for a missing one.

    >>> is_missing(None), is_missing(float("nan")), is_missing(""), is_missing(0)
    (True, True, False, False)
    """
    try:
        return value is None or bool(value != value)  # Only NaN and NaT differ from themselves
    except (TypeError, ValueError):  # pandas.NA has no truth value, nor have arrays
        return type(value).__name__ == "NAType"


def pretext_row(values: Mapping[str, Any], where: str) -> tuple[str, dict[str, Value]] | None:
    """Return text and fields of a row of the authors' adaptation data (``cfli/pretrain_wiki``), None for other rows.

    Raises:
        CorpusFormatError: A value is not a text, or the text to reconstruct is another; ``where`` names file and line.
    """
    names = ("input", *PRETEXT_FIELDS)
    if "text" in values or not values.keys() >= set(names):
        return None
    for name in names:
        if not isinstance(values[name], str):
            raise CorpusFormatError(f"{where} has the {name} {reprlib.repr(values[name])}; write a string")
    if values["input"].split() != values[PRETEXT_FIELDS[0]].split():
        problem = "has an output_summarize other than its input"
        raise CorpusFormatError(f"{where} {problem}; EBAE predicts the input: write it there")
    return values["input"], row_fields({name: values[name] for name in PRETEXT_FIELDS})


def _is_field(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def row_place(values: Mapping[str, Any], where: str) -> Place | None:
    """Return the place that :func:`passage_line` wrote into a row, None where there is none.

    A ``place`` of another form that somebody else wrote counts as none, but a faulty one of ours is an error.

    Raises:
        CorpusFormatError: A number or the document is of another type; ``where`` names file and line.
    """
    given = values.get("place")
    if not isinstance(given, Mapping) or not {"document", "begin", "end"} <= given.keys() <= _PLACE.keys():
        return None
    for name, value in given.items():
        wanted = str if _PLACE[name] else int
        if not isinstance(value, wanted) or isinstance(value, bool):
            problem = f"has the {name} {value!r} in its place"
            raise CorpusFormatError(f"{where} {problem}; write the row as `llama2vec read` does, or leave place out")
    return Place(**cast("dict[str, Any]", given))

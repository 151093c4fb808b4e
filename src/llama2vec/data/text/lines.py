"""The lines of a UTF-8 file, plain or gzip; every fault is a DataError (``fault``) that names its file and line."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path

from llama2vec.errors import CorpusFormatError, DataError
from llama2vec.files import open_regular
from llama2vec.terminal import counted

MOST_BYTES = 64 * 2**20
"""Longest line: a file with a longer one is of another kind, and would fill the memory."""

_ROLES = {
    "id": ("id", "_id", "docid", "doc_id", "pid", "passage_id", "corpus-id", "qid", "query_id", "query-id"),
    "text": ("text", "passage", "contents", "content", "body", "query", "question"),
    "title": ("title",),
}


def numbered_lines(path: Path, fault: type[DataError] = CorpusFormatError) -> Iterator[tuple[int, str]]:
    r"""Yield (line number, text without its line end), skipping blank lines and a byte order mark at the start.

    Lines end with ``\n`` or ``\r\n`` only: texts may contain other Unicode line separators.
    """
    number = 0
    try:
        with open_regular(path) as file:
            stream: BufferedIOBase = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
            while raw := stream.readline(MOST_BYTES + 1):
                number += 1
                if len(raw) > MOST_BYTES:
                    raise fault(f"{path}:{number} is longer than {MOST_BYTES >> 20} MiB; write one row per line")
                line = _decoded(raw, path, number, fault).removesuffix("\n").removesuffix("\r")
                if "\r" in line:
                    raise fault(f"{path}:{number} contains a carriage return (\\r); end each line with \\n")
                if line and not line.isspace():
                    yield number, line
    except (EOFError, zlib.error):
        raise fault(f"{path}:{number + 1} ends in the middle of its gzip data; copy the file again") from None
    except gzip.BadGzipFile:
        raise fault(f"{path} is not a gzip file; rename it without .gz, or compress it again") from None
    except OSError as error:
        raise fault(f"{path} cannot be read ({error.strerror}); check the path") from None


def _decoded(raw: bytes, path: Path, number: int, fault: type[DataError]) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        number += raw.count(b"\n", 0, error.start)
        problem = f"is not UTF-8 (byte 0x{raw[error.start]:02x})"
        raise fault(f"{path}:{number} {problem}; convert the file to UTF-8") from None


def json_object(line: str, where: str, such_as: str, fault: type[DataError] = CorpusFormatError) -> dict[str, object]:
    """Return the JSON object of a line; for messages: its file and line, and what a right line looks like."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.colno}"
        raise fault(f"{where} is not JSON ({problem}); write one object per line") from None
    except (ValueError, RecursionError) as error:
        raise fault(f"{where} is not JSON that Python can read ({error}); shorten the line") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise fault(f"{where} is a JSON {kind}; write an object such as {such_as}")
    return values


def finite_score(text: str, where: str, fault: type[DataError] = CorpusFormatError) -> float:
    """Return the score in a column; for the message: its file and line."""
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise fault(f"{where} has the score {text!r}; a score is a finite number")
    return score


def columns_in(fields: Sequence[str]) -> str:
    """Return how many columns a row has, in words for a message: 1 column, 2 columns."""
    return counted(len(fields), "column")


def header_columns(fields: Sequence[str], where: str) -> dict[str, int]:
    """Return role (``id``, ``text``, ``title``) → column where a table's first row is a header, else nothing.

    >>> header_columns(["id", "text", "title"], "psgs.tsv:1"), header_columns(["7", "A llama."], "c.tsv:1")
    ({'id': 0, 'text': 1, 'title': 2}, {})
    """
    names = [field.strip().lower() for field in fields]
    found = {role: names.index(name) for role, known in _ROLES.items() for name in known if name in names}
    if len(found) == len(names) and {"id", "text"} <= found.keys():
        return found
    if names[0] in _ROLES["id"] and all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise CorpusFormatError(f"{where} looks like a header; name the columns id, text and title, or delete the line")
    return {}

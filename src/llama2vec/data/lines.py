"""The lines of a UTF-8 file, plain or gzip: every fault names its file and line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from llama2vec.errors import CorpusFormatError, DataError
from llama2vec.files import open_regular

MOST_BYTES = 64 * 2**20
"""Longest line, and longest text file: a longer one is a file of another kind, and would fill the memory."""

_ROLES = {
    "id": ("id", "_id", "docid", "doc_id", "pid", "passage_id", "corpus-id", "qid", "query_id", "query-id"),
    "text": ("text", "passage", "contents", "content", "body", "query", "question"),
    "title": ("title",),
}


def numbered_lines(path: Path, fault: type[DataError] = CorpusFormatError) -> Iterator[tuple[int, str]]:
    r"""Yield (line number, text without its line end) of a file, skipping blank lines.

    Lines end at ``\n`` or ``\r\n`` only: texts may hold other Unicode line separators. A byte order mark at the start
    is dropped.

    Args:
        path: The file; gzip where the name ends in ``.gz``.
        fault: The error class that fits the kind of file.

    Raises:
        DataError: As ``fault``: an unreadable file, a line that is too long or not UTF-8, or a bare ``\r`` in it.
    """
    for number, raw in raw_lines(path, fault):
        line = decode_line(raw, path, number, fault)
        if line and not line.isspace():
            yield number, line


def raw_lines(path: Path, fault: type[DataError] = CorpusFormatError) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes with their line end).

    Raises:
        DataError: As ``fault``: no such regular file, truncated gzip, or a line above 64 MiB.
    """
    number = 0
    try:
        with _opened(path) as stream:
            while raw := stream.readline(MOST_BYTES + 1):
                number += 1
                if len(raw) > MOST_BYTES:
                    raise fault(f"{path}:{number} is longer than {MOST_BYTES >> 20} MiB; write one row per line")
                yield number, raw
    except (EOFError, zlib.error):
        raise fault(f"{path}:{number + 1} ends in the middle of its gzip data; copy the file again") from None
    except gzip.BadGzipFile:
        raise fault(f"{path} is not a gzip file; rename it without .gz, or compress it again") from None
    except OSError as error:
        raise fault(f"{path} cannot be read ({error.strerror}); check the path") from None


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    with open_regular(path) as stream:
        yield gzip.GzipFile(fileobj=stream) if path.name.lower().endswith(".gz") else stream


def decode_line(raw: bytes, path: Path, number: int, fault: type[DataError] = CorpusFormatError) -> str:
    r"""Return a line's text without its line end, on the first line without a byte order mark.

    Raises:
        DataError: As ``fault``: not UTF-8, or a ``\r`` inside, which would join rows or cut one.
    """
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise fault(f"{path}:{number} is not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8") from None
    line = line.removesuffix("\n").removesuffix("\r")
    if "\r" in line:
        raise fault(f"{path}:{number} contains a carriage return (\\r); end each line with \\n")
    return line


def text_file_lines(path: Path) -> list[str]:
    r"""Return every line of a text file, blank ones too; ``\n``, ``\r\n`` or, in a file without these, ``\r`` ends one.

    Raises:
        CorpusFormatError: Unreadable, not UTF-8, or above 64 MiB.
    """
    try:
        with open_regular(path) as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise CorpusFormatError(f"{path} cannot be read ({error.strerror}); check the path") from None
    if len(raw) > MOST_BYTES:
        raise CorpusFormatError(f"{path} is larger than {MOST_BYTES >> 20} MiB; split it into several files")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
        raise CorpusFormatError(
            f"{path}:{number} is not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n") if "\n" in text else text.split("\r")
    return [line if line.strip() else "" for line in lines]


def json_object(line: str, where: str, such_as: str, fault: type[DataError] = CorpusFormatError) -> dict[str, object]:
    """Return the JSON object that a line holds.

    Args:
        line: The text.
        where: File and line, for the message.
        such_as: What a right line looks like, for the message.
        fault: The error class that fits the kind of file.

    Raises:
        DataError: As ``fault``: not JSON, or not an object.
    """
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


def header_columns(fields: Sequence[str], where: str, fault: type[DataError] = CorpusFormatError) -> dict[str, int]:
    """Return role (``id``, ``text``, ``title``) → column where a table's first row is a header, else nothing.

    >>> header_columns(["id", "text", "title"], "psgs.tsv:1"), header_columns(["7", "A llama."], "c.tsv:1")
    ({'id': 0, 'text': 1, 'title': 2}, {})

    Raises:
        DataError: As ``fault``: the first row looks like a header and has a column that is neither.
    """
    names = [field.strip().lower() for field in fields]
    found = {role: names.index(name) for role, known in _ROLES.items() for name in known if name in names}
    if len(found) == len(names) and {"id", "text"} <= found.keys():
        return found
    if names[0] in _ROLES["id"] and all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise fault(f"{where} looks like a header; name the columns id, text and title, or delete the line")
    return {}

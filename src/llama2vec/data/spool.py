"""Training rows on the disk: written once, in reading order, then read by number; memory does not grow with them.

One SQLite file, which all processes read. A row has a size, by which batches are made even, and keys of its query and
its answers, by which rows with the same query are found. Sizes and keys have a table of their own: an epoch's order
needs those of every row, and the texts of none.
"""

from __future__ import annotations

import json
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from llama2vec.files import disk_errors

RowT = TypeVar("RowT")

SPOOL_FILE = "rows.sqlite"
_CHUNK_ROWS, _BUFFER_CHUNKS, _INSERTED = 4096, 16, 500
_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE rows (row INTEGER PRIMARY KEY, body TEXT);
CREATE TABLE facts (row INTEGER PRIMARY KEY, size INTEGER, keys BLOB);
CREATE TABLE answers (key INTEGER, answer INTEGER);
"""


class SpooledRow(NamedTuple):
    """One row to write."""

    texts: Sequence[str]
    rest: Any = None  # JSON
    size: int = 0
    query_keys: Sequence[int] = ()
    answer_keys: Sequence[int] = ()


def write_spool(path: Path, rows: Iterable[SpooledRow]) -> None:
    """Write rows in their order; the file appears as a whole.

    Raises:
        DataError: What the source of the rows raises; nothing is left.
    """
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    try:
        with disk_errors(path):
            _fill(unfinished, rows)
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fill(path: Path, rows: Iterable[SpooledRow]) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.executescript(_TABLES)
        numbered = enumerate(rows)
        while part := list(islice(numbered, _INSERTED)):
            connection.executemany("INSERT INTO rows VALUES (?, ?)", ((number, _packed(row)) for number, row in part))
            facts = ((number, row.size, _stored([*row.query_keys, *row.answer_keys])) for number, row in part)
            connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", facts)
            pairs = ((key, answer) for _, row in part for key in row.query_keys for answer in row.answer_keys)
            connection.executemany("INSERT INTO answers VALUES (?, ?)", pairs)
        connection.execute("CREATE INDEX by_key ON answers (key, answer)")
        connection.commit()
    finally:
        connection.close()


def _packed(row: SpooledRow) -> str:
    """Return a row as one string, texts as they are: JSON would read each of their letters."""
    return f"{json.dumps([[len(text) for text in row.texts], row.rest])}\n{''.join(row.texts)}"


def _unpacked(body: str) -> tuple[list[str], Any]:
    head, _, joined = body.partition("\n")
    lengths, rest = json.loads(head)
    ends = list(accumulate(lengths))
    return [joined[end - length : end] for end, length in zip(ends, lengths, strict=True)], rest


def _stored(keys: Iterable[int]) -> bytes:
    return array("q", keys).tobytes()


class Spool(Sequence[RowT], Generic[RowT]):
    """Rows by number, decoded one at a time; safe in data workers, which open the file themselves.

    ``decode`` takes the texts and the rest of a row.
    """

    def __init__(self, path: Path, decode: Callable[[list[str], Any], RowT]) -> None:
        self.path, self._decode = path, decode
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._count = int(self._all("SELECT count(*) FROM rows")[0][0])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        found = self._all("SELECT body FROM rows WHERE row = ?", range(len(self))[row])
        return self._decode(*_unpacked(found[0][0]))

    def __iter__(self) -> Iterator[RowT]:
        for start in range(0, len(self), _CHUNK_ROWS):
            for (body,) in self._all("SELECT body FROM rows WHERE row >= ? AND row < ?", start, start + _CHUNK_ROWS):
                yield self._decode(*_unpacked(body))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def sizes(self, start: int, stop: int) -> list[int]:
        """Return the sizes of consecutive rows."""
        found = self._all("SELECT size FROM facts WHERE row >= ? AND row < ? ORDER BY row", start, stop)
        return [size for (size,) in found]

    def keys(self, start: int, stop: int) -> list[tuple[int, ...]]:
        """Return the keys of consecutive rows: of the query, then of its answers."""
        found = self._all("SELECT keys FROM facts WHERE row >= ? AND row < ? ORDER BY row", start, stop)
        return [tuple(memoryview(keys).cast("q")) for (keys,) in found]

    def answers(self, query_key: int) -> tuple[int, ...]:
        """Return the keys of all answers to a query, from any row."""
        found = self._all("SELECT DISTINCT answer FROM answers WHERE key = ?", query_key)
        return tuple(answer for (answer,) in found)

    def _all(self, query: str, *values: int) -> list[Any]:
        if self._opened is None or self._opened[0] != os.getpid():
            # Immutable: without locks, which shared file systems do badly.
            where = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
            self._opened = os.getpid(), sqlite3.connect(where, uri=True, check_same_thread=False)
        return self._opened[1].execute(query, values).fetchall()


class Sizes(Sequence[int]):
    """The sizes of a spool's rows."""

    def __init__(self, spool: Spool[Any]) -> None:
        self._spool = spool

    def __len__(self) -> int:
        return len(self._spool)

    def __getitem__(self, row: Any) -> Any:
        return self._spool.sizes(row, row + 1)[0]


def buffers(rows: int, draw: Random) -> Iterator[list[range]]:
    """Yield all rows once, as much as a shuffle buffer holds at a time: chunks of consecutive rows from random places.

    >>> sum(len(chunk) for buffer in buffers(100_000, Random(0)) for chunk in buffer)
    100000
    """
    starts = list(range(0, rows, _CHUNK_ROWS))
    draw.shuffle(starts)
    for first in range(0, len(starts), _BUFFER_CHUNKS):
        chosen = starts[first : first + _BUFFER_CHUNKS]
        yield [range(start, min(start + _CHUNK_ROWS, rows)) for start in chosen]

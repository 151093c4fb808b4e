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
_LINKS = """
PRAGMA links.journal_mode = OFF; PRAGMA links.synchronous = OFF;
CREATE TABLE links.links (key INTEGER, row INTEGER);
"""


class SpooledRow(NamedTuple):
    """One row to write."""

    texts: Sequence[str]
    rest: Any = None  # JSON
    size: int = 0
    query_keys: Sequence[int] = ()
    answer_keys: Sequence[int] = ()


class LinkedRows:
    """The rows of a spool that is being written, and which of them share a key."""

    def __init__(self, connection: sqlite3.Connection, count: int) -> None:
        self._connection, self._count = connection, count

    def __len__(self) -> int:
        return self._count

    def first_key(self, row: int) -> int:
        """Return the first key of a row's query."""
        return self._keys(row)[0]

    def by_first_key(self, place: Callable[[int], bytes]) -> Iterator[int]:
        """Yield one row for each first key of a query, in the order of the places that the keys are given."""
        self._connection.create_function("placed", 1, lambda keys: place(memoryview(keys).cast("q")[0]))
        found = self._connection.execute("SELECT min(row), placed(keys) AS place FROM facts GROUP BY place ORDER BY 2")
        return (row for row, _ in found)

    def with_key(self, key: int) -> list[int]:
        """Return the rows that have a key."""
        return [row for (row,) in self._connection.execute("SELECT DISTINCT row FROM links.links WHERE key = ?", [key])]

    def group(self, row: int, most: int) -> list[int]:
        """Return a row and all that share a key with it or with one of the group; none where they are over ``most``."""
        found, seen, waiting = {row}, set[int](), [row]
        while waiting and len(found) <= most:
            for key in {*self._keys(waiting.pop())} - seen:
                linked = "SELECT row FROM links.links WHERE key = ? LIMIT ?"
                new = {other for (other,) in self._connection.execute(linked, [key, most + 1])} - found
                seen.add(key)
                found |= new
                waiting += new
        return sorted(found) if len(found) <= most else []

    def _keys(self, row: int) -> Sequence[int]:
        (stored,) = self._connection.execute("SELECT keys FROM facts WHERE row = ?", [row]).fetchone()
        return memoryview(stored).cast("q")


def write_spool(
    path: Path, rows: Iterable[SpooledRow], take_out: Callable[[LinkedRows], Sequence[int]] | None = None
) -> list[SpooledRow]:
    """Write rows in their order; the file appears as a whole.

    Args:
        path: The file.
        rows: What to write.
        take_out: Chooses rows that are taken out again, by number; whole groups, so that no query of theirs remains.
            The last rows take their numbers.

    Returns:
        The rows that were taken out, as they were chosen, without their keys.

    Raises:
        DataError: What the source of the rows raises; nothing is left.
    """
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    links = path.with_name(f"{unfinished.name}-links")
    try:
        with disk_errors(path):
            for left in (unfinished, links):
                left.unlink(missing_ok=True)
            taken = _fill(unfinished, rows, links, take_out)
            unfinished.replace(path)
    finally:
        for left in (unfinished, links):
            left.unlink(missing_ok=True)
    return taken


def _fill(
    path: Path, rows: Iterable[SpooledRow], links: Path, take_out: Callable[[LinkedRows], Sequence[int]] | None
) -> list[SpooledRow]:
    connection, count = sqlite3.connect(path), 0
    try:
        connection.executescript(_TABLES)
        if take_out:
            connection.execute("ATTACH DATABASE ? AS links", [str(links)])
            connection.executescript(_LINKS)
        numbered = enumerate(rows)
        while part := list(islice(numbered, _INSERTED)):
            count += len(part)
            connection.executemany("INSERT INTO rows VALUES (?, ?)", ((number, _packed(row)) for number, row in part))
            facts = ((number, row.size, _stored([*row.query_keys, *row.answer_keys])) for number, row in part)
            connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", facts)
            pairs = ((key, answer) for _, row in part for key in row.query_keys for answer in row.answer_keys)
            connection.executemany("INSERT INTO answers VALUES (?, ?)", pairs)
            if take_out:
                found = ((key, number) for number, row in part for key in {*row.query_keys, *row.answer_keys})
                connection.executemany("INSERT INTO links.links VALUES (?, ?)", found)
        taken = list[SpooledRow]()
        if take_out:
            connection.execute("CREATE INDEX links.by_key ON links (key, row)")
            taken = _taken_out(connection, count, take_out(LinkedRows(connection, count)))
        connection.execute("CREATE INDEX by_key ON answers (key, answer)")
        connection.commit()
        return taken
    finally:
        connection.close()


def _taken_out(connection: sqlite3.Connection, count: int, chosen: Sequence[int]) -> list[SpooledRow]:
    """Remove rows and let the last ones take their numbers; the answers to queries that are gone are never asked."""
    found, stay = list[SpooledRow](), count - len(chosen)
    for row in chosen:
        (body,) = connection.execute("SELECT body FROM rows WHERE row = ?", [row]).fetchone()
        (size,) = connection.execute("SELECT size FROM facts WHERE row = ?", [row]).fetchone()
        found.append(SpooledRow(*_unpacked(body), size))
    gone = set(chosen)
    last = [row for row in range(stay, count) if row not in gone]
    moves = list(zip(sorted(row for row in gone if row < stay), last, strict=True))
    for delete, move in (
        ("DELETE FROM rows WHERE row = ?", "UPDATE rows SET row = ? WHERE row = ?"),
        ("DELETE FROM facts WHERE row = ?", "UPDATE facts SET row = ? WHERE row = ?"),
    ):
        connection.executemany(delete, [[row] for row in chosen])
        connection.executemany(move, moves)
    return found


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

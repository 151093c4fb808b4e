"""The fields of all passages as one SQLite table, which filters read.

One row per row of the store; columns ``id``, ``title``, ``path``, ``page``, and one for each field. Values keep their
types: a column whose values are all whole numbers, all numbers or all text is declared so, any other one keeps each
value as it is (BLOB: there is none). true and false are 1 and 0; what a passage lacks is NULL. Names and texts are in
Unicode's composed form (NFC), in which filters are read too.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from llama2vec.records import Passage, Value

logger = logging.getLogger(__name__)

TABLE, ROW, DOCUMENT = "passages", "\x1frow", "\x1fdocument"
"""The table, its column of store rows, and that of documents whose names are not in the composed form, as they are
written. No field can have the name of these columns."""

TABLE_VERSION = 1
"""Raised when the same passages give another table; kept in the table as SQLite's ``user_version``."""

RESERVED = {"id": "TEXT", "title": "TEXT", "path": "TEXT", "page": "INTEGER"}
"""Columns of every table; a field of the same name fills them only where the passage itself says nothing."""

_MOST_COLUMNS = 1990  # SQLite takes 2,000
_LARGEST = 2**63


def write_field_table(passages: Iterable[Passage], file: str | Path) -> sqlite3.Connection:
    """Write the table of a store's passages, in row order; return the connection.

    Args:
        passages: Read once; only the distinct field names are kept in memory.
        file: A new file; ``:memory:`` = in memory.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        # An interrupted table is made again from the start, so a journal would be of no use.
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "ATTACH '' AS staging", "BEGIN"):
            connection.execute(statement)
        columns = _Columns(connection)
        for row, passage in enumerate(passages):
            columns.add(row, passage)
        columns.finish()
        connection.execute(f"PRAGMA main.user_version = {TABLE_VERSION}")
        connection.execute("COMMIT")
        connection.execute("DETACH staging")
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            number = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
            raise OSError(number, str(error), str(file)) from error
        raise
    return connection


class _Columns:
    """Collects rows in a temporary table whose columns have no types, and copies them once the types are known."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._names: dict[str, str] = {}  # Lower case → name as first written; its place is its number
        self._kinds: list[set[str]] = []
        self._numbers: dict[str, int] = {}
        self._refused: set[str] = set()
        self._clashes: set[str] = set()
        connection.execute("CREATE TABLE staging.rows (row INTEGER PRIMARY KEY, document TEXT)")
        for name in RESERVED:
            self._number(name)

    def add(self, row: int, passage: Passage) -> None:
        """Add one passage."""
        values: dict[int, Value | None] = {}
        for name, value in chain(_own(passage), passage.fields.items()):
            number = self._number(name)
            if value is None or number is None:
                continue
            kind, value = _stored(value)
            if number in values:
                if values[number] != value:
                    self._clash(name, is_own=number < len(RESERVED))
                continue
            values[number] = value
            self._kinds[number].add(kind)
        into = ", ".join(["row", "document", *(f"c{number}" for number in values)])
        marks = ", ".join("?" * (len(values) + 2))
        given = [row, _other_spelling(passage), *values.values()]
        self._connection.execute(f"INSERT INTO staging.rows ({into}) VALUES ({marks})", given)  # noqa: S608

    def finish(self) -> None:
        """Write the table with the types that its values have."""
        declared = [f"{quoted(ROW)} INTEGER PRIMARY KEY", f"{quoted(DOCUMENT)} TEXT"]
        for name, kinds in zip(self._names.values(), self._kinds, strict=True):
            declared.append(f"{quoted(name)} {_declared(kinds) if kinds else RESERVED.get(name, 'BLOB')}")
        self._connection.execute(f"CREATE TABLE main.{TABLE} ({', '.join(declared)})")
        taken = ", ".join(["row", "document", *(f"c{number}" for number in range(len(self._kinds)))])
        self._connection.execute(f"INSERT INTO main.{TABLE} SELECT {taken} FROM staging.rows")  # noqa: S608
        if self._refused:
            logger.warning(
                "filters can use %d fields; these %d more are not among them: %s",
                _MOST_COLUMNS, len(self._refused), ", ".join(sorted(self._refused)[:5]),
            )  # fmt: skip

    def _number(self, name: str) -> int | None:
        """Return the number of a field's column, which is made when the field is new; None = it cannot have one."""
        if name in self._numbers:
            return self._numbers[name]
        clean = _clean(name)
        key = clean.lower()  # SQLite does not tell upper from lower case in names
        if not key.strip() or key in (ROW, DOCUMENT):
            return None
        if key not in self._names:
            if len(self._names) >= _MOST_COLUMNS:
                self._refused.add(clean)
                return None
            self._names[key] = clean
            self._kinds.append(set())
            self._connection.execute(f"ALTER TABLE staging.rows ADD COLUMN c{len(self._kinds) - 1}")
        self._numbers[name] = list(self._names).index(key)
        return self._numbers[name]

    def _clash(self, name: str, *, is_own: bool) -> None:
        if name in self._clashes:
            return
        self._clashes.add(name)
        if is_own:
            logger.warning("filters read %s as the passage's own, not the field %r; rename it", name.lower(), name)
        else:
            logger.warning("filters see one field for %r and its other spellings; they use the first one", name)


def _own(passage: Passage) -> Iterator[tuple[str, Value | None]]:
    """Yield what the passage itself says."""
    yield "id", passage.id
    yield "title", passage.title or None
    if passage.place is not None:
        yield "path", passage.place.document
        yield "page", passage.place.page


def _other_spelling(passage: Passage) -> str | None:
    """Return the document of a passage where its name is not in the composed form."""
    document = encodable(passage.place.document) if passage.place else ""
    return document if composed(document) != document else None


def _stored(value: Value) -> tuple[str, Value]:
    """Return the kind of a value, and the value as SQLite takes it."""
    if isinstance(value, bool):
        return "INTEGER", int(value)
    if isinstance(value, int):
        if -_LARGEST <= value < _LARGEST:
            return "INTEGER", value
        with suppress(OverflowError):  # More than 308 digits: text keeps them all
            return "REAL", float(value)
    if isinstance(value, float):
        return "REAL", value
    return "TEXT", _clean(str(value))


def _declared(kinds: set[str]) -> str:
    """Return the type that keeps all values of these kinds as they are; "" = each has its own.

    >>> _declared({"INTEGER", "REAL"}), _declared({"INTEGER", "TEXT"})
    ('REAL', '')
    """
    if len(kinds) == 1:
        return next(iter(kinds))
    return "" if "TEXT" in kinds else "REAL"


def _clean(text: str) -> str:
    """Return text that SQLite can hold, in the form in which it is compared."""
    return composed(encodable(text))


def encodable(text: str) -> str:
    """Return text that SQLite can hold: no half surrogate pairs, no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def composed(text: str) -> str:
    """Return a text in Unicode's composed form, in which ä is one character.

    >>> composed("Ko\u0308ln") == "Köln"
    True
    """
    return unicodedata.normalize("NFC", text)


def quoted(name: str) -> str:
    """Return a name as SQL writes it.

    >>> print(quoted('a "b" c'))
    "a ""b"" c"
    """
    return '"' + name.replace('"', '""') + '"'

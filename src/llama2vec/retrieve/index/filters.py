"""Which passages a filter such as ``year >= 2020 and path ~ "guide/"`` allows.

A filter is one expression of SQL, evaluated by SQLite over :mod:`field_table`, with three additions: ``~`` and ``!~``
say that a text contains another one (upper and lower case are the same), text may stand in double quotes, and a field
may have the name of an SQL keyword. Whatever SQLite would silently understand otherwise than it was meant, such as
``2000 < year < 2010``, is an error.
"""

from __future__ import annotations

import difflib
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from llama2vec.errors import StoreError
from llama2vec.records import Passage
from llama2vec.retrieve.index.exact import Rows
from llama2vec.retrieve.index.field_table import (
    DOCUMENT,
    ROW,
    TABLE,
    TABLE_VERSION,
    composed,
    quoted,
    write_field_table,
)
from llama2vec.retrieve.index.filter_types import (
    KEYWORDS,
    MOST_PARENTHESES,
    TOO_DEEP,
    Token,
    Types,
    as_written,
    mistake,
    typed_sql,
)
from llama2vec.retrieve.index.text_functions import RAISED, TextFunctions
from llama2vec.retrieve.store.reader import is_intact

logger = logging.getLogger(__name__)

_FUNCTIONS = frozenset([
    "abs", "coalesce", "date", "datetime", "ifnull", "iif", "instr", "julianday", "length", "lower", "ltrim", "max",
    "min", "nullif", "replace", "round", "rtrim", "strftime", "substr", "time", "trim", "typeof", "unixepoch", "upper",
])  # fmt: skip
_OPERATOR_FUNCTIONS = frozenset(["like", "glob", "match"])  # What SQLite calls for LIKE, GLOB and our ~
_AFTER = {"as": frozenset(["integer", "real", "text"]), "collate": frozenset(["nocase", "binary", "rtrim"])}
_COMPARISONS = frozenset(["=", "==", "!=", "<>", "<", "<=", ">", ">=", "~", "!~"])
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>--|/\*)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<field>\[[^\]]*\]|`(?:[^`]|``)*`)
      | (?P<date>[0-9]{4}-(?:[0-9]{2}\b(?:-[0-9]{2}\b)?|[0-9]{1,2}-[0-9]{1,2}\b))
      | (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?!\w))
      | (?P<name>[^\W\d]\w*)
      | (?P<operator>!~|~|<=|>=|<>|!=|==|[<>=+\-*/%(),])""",
    re.VERBOSE,
)
_HINTS = {
    "&": "write `and`", "|": "write `or`", "!": "write `not`", ";": "give a single expression",
    "'": "the text is not closed", '"': "the text is not closed", "[": "the name is not closed",
    "`": "the name is not closed",
}  # fmt: skip

_LONGEST = 10_000
_SECONDS = 20.0
_STEP = 100  # SQLite looks at the clock after so many steps, each of which may call a function
_LONGEST_VALUE, _LONGEST_REPLACED = 1 << 26, 1 << 20
"""Bytes of a text. `replace` makes texts longer, and calls of it within each other would take minutes in one step."""
_SHOWN_FIELDS = 12
_KEPT = 8


class PassageFields:
    """The fields of a store's passages.

    Args:
        passages: Opens the passages in row order; called by the first filter, unless there is a table.
        table: The file of the table that was made with the index; None = make one in memory.
        sha256: Its checksum.
        remedy: How to make the table again.
    """

    def __init__(
        self, passages: Callable[[], Iterator[Passage]], table: Path | None = None, sha256: str = "", remedy: str = ""
    ) -> None:
        self._passages, self._table, self._sha256, self._remedy = passages, table, sha256, remedy
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._functions: TextFunctions | None = None
        self._types: dict[str, tuple[str, str]] = {}  # Lower case → name and declared type
        self._found: dict[str, Rows] = {}

    @property
    def names(self) -> Sequence[str]:
        """What filters can name: ``id``, ``title``, ``path``, ``page``, then the fields in order of appearance."""
        with self._lock:
            self._open()
            return [name for name, _ in self._types.values()]

    def rows(self, where: str) -> Rows:
        """Return the rows [n] that a filter allows, ascending.

        Raises:
            FilterError: It is not an expression over the fields, or takes too long.
            StoreError: The table is damaged.
        """
        where = composed(where)
        with self._lock:
            connection = self._open()
            if where not in self._found:
                expression, longest = _translated(where, self._types)
                statement = f"SELECT {quoted(ROW)} FROM {TABLE} WHERE ({expression})"  # noqa: S608
                found = _evaluated(connection, self._functions, statement, where, longest)
                if "(" in where:  # a function may depend on the date
                    return found
                while len(self._found) >= _KEPT:
                    del self._found[next(iter(self._found))]
                self._found[where] = found
            return self._found[where]

    def document(self, path: str) -> str | None:
        """Return a file as the index spells it, None where no passage comes from it.

        Passages also come from a row of a file (``path#7``) or a member of it (``path!name``). A file that is spelled
        exactly so comes before one that is the same in another Unicode form.
        """
        spelled = f"ifnull({quoted(DOCUMENT)}, path)"
        for column, form in (spelled, path), ("path", composed(path)):
            is_its = f"{column} = ?1 OR substr({column}, 1, ?2) IN (?1 || '#', ?1 || '!')"
            statement = f"SELECT {spelled} FROM {TABLE} WHERE {is_its} LIMIT 1"  # noqa: S608
            with self._lock:
                found = self._open().execute(statement, [form, len(form) + 1]).fetchone()
            if found is not None:
                return path if column == spelled else _beginning(found[0], form)
        return None

    def _open(self) -> sqlite3.Connection:
        if self._table is not None and not is_intact(self._table, self._sha256):
            raise StoreError(f"{self._table} is missing, damaged, or was replaced after it was opened; {self._remedy}")
        if self._connection is None:
            connection = self._written() or write_field_table(self._passages(), ":memory:")
            columns = connection.execute(f"PRAGMA table_info({TABLE})").fetchall()
            hidden = (ROW, DOCUMENT)
            self._types = {name.lower(): (name, kind) for _, name, kind, *_ in columns if name not in hidden}
            self._functions = TextFunctions(connection)
            _protect(connection)
            self._connection = connection
        return self._connection

    def _written(self) -> sqlite3.Connection | None:
        """Open the table that was made with the index; None where there is none, or it is of another version."""
        if self._table is None:
            return None
        address = f"{self._table.resolve().as_uri()}?mode=ro&immutable=1"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA table_info({TABLE})").fetchall()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            connection.close()
            raise StoreError(f"{self._table} cannot be read ({error}); {self._remedy}") from error
        if version == TABLE_VERSION:
            return connection
        connection.close()
        logger.info("%s is of another version of llama2vec, so the first filter reads all passages", self._table)
        return None


def _beginning(document: str, form: str) -> str:
    """Return the beginning of a document's name that has a composed form."""
    ends = range(len(form), len(document) + 1)  # Composing makes no text longer
    return next(document[:end] for end in ends if composed(document[:end]) == form)


def _protect(connection: sqlite3.Connection) -> None:
    """Allow a connection to read the table through harmless functions, and nothing else."""

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        allowed = action == sqlite3.SQLITE_SELECT
        allowed |= action == sqlite3.SQLITE_READ and first == TABLE
        allowed |= action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS | _OPERATOR_FUNCTIONS
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
    connection.set_authorizer(authorize)


def _evaluated(
    connection: sqlite3.Connection, functions: TextFunctions | None, statement: str, where: str, longest: int
) -> Rows:
    """Return the rows that a statement selects, with no text above ``longest`` bytes."""
    ends = time.monotonic() + _SECONDS
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    connection.set_progress_handler(lambda: time.monotonic() > ends, _STEP)
    try:
        return np.fromiter((row for (row,) in connection.execute(statement)), dtype=np.int64)
    except sqlite3.Error as error:
        if time.monotonic() > ends:
            raise mistake(f"took longer than {_SECONDS:g} s; simplify it") from None
        problem = functions.fault if functions and str(error) == RAISED else str(error)
        if problem == "string or blob too big":
            problem = f"makes or reads a text longer than {longest:,} bytes; simplify it"
        if problem == "parser stack overflow" or problem.startswith("Expression tree is too large"):
            problem = TOO_DEEP
        if problem.startswith('near ")"') and not where.rstrip().endswith(")"):
            problem = "the expression is incomplete"
        elif problem.endswith("syntax error"):
            problem = f"cannot be read as one expression ({problem}); join comparisons with `and` or `or`"
        raise mistake(problem) from None
    finally:
        connection.set_progress_handler(None, 0)


def check_filter(where: str) -> None:
    """Refuse a filter that no index can read; which fields there are is known only once it is opened.

    Raises:
        FilterError: It is not an expression.
    """
    _parsed(composed(where), None)


def _translated(where: str, types: Types) -> tuple[str, int]:
    """Return an expression as SQLite reads it, and how long its texts may be.

    Raises:
        FilterError: It is not one expression over the fields.
    """
    tokens = _parsed(where, types)
    if not any(token.kind == "field" for token in tokens):
        raise mistake(f"names no field; {_known(types)}")
    # SQLite also calls the function where a field has its name.
    replaces = any(
        token.sql.strip('"').lower() == "replace" and after.written == "(" for token, after in pairwise(tokens)
    )
    return typed_sql(where, tokens, types), _LONGEST_REPLACED if replaces else _LONGEST_VALUE


def _parsed(where: str, types: Types | None) -> list[Token]:
    """Return the words of an expression; without ``types``, any name is a field."""
    if len(where) > _LONGEST:
        raise mistake(f"has {len(where):,} characters, more than {_LONGEST:,}")
    try:
        where.encode()
    except UnicodeEncodeError:
        raise mistake(f"{where!a} holds half of a surrogate pair; remove it") from None
    tokens = list(_tokens(where, types))
    if not tokens:
        raise mistake("is empty; write an expression such as year >= 2020, or leave it out")
    _check_parentheses(tokens)
    _check_commas(tokens)
    _check_depth(tokens)
    _check_chains(tokens)
    return tokens


def _tokens(where: str, types: Types | None) -> Iterator[Token]:
    at, before = 0, ""
    while at < len(where):
        match = _TOKEN.match(where, at)
        if match is None:
            hint = _HINTS.get(where[at], "text needs quotes, such as 'en'")
            raise mistake(f"cannot read {where[at : at + 12]!r} (character {at + 1}); {hint}")
        kind, written = str(match.lastgroup), match[0]
        if kind == "comment":
            raise mistake(f"holds a comment at character {at + 1}; leave it out")
        elif kind == "date":
            raise mistake(f"a date needs quotes: '{written}'")
        elif kind == "text":
            text = written[1:-1].replace(written[0] * 2, written[0])
            if written[0] == '"' and text.lower() in (types or ()):
                raise mistake(
                    f"{written} can mean the field {as_written(text)} or the text '{text}'; write one of these"
                )
            yield Token(kind, written, at, "'" + text.replace("'", "''") + "'")
        elif kind == "field":
            name = written[1:-1].replace("``", "`") if written[0] == "`" else written[1:-1]
            yield Token(kind, written, at, _field(name, types))
        elif kind == "name":
            follows = where[match.end() :].lstrip()[:1]
            yield _named(written, at, before, follows, types)
        elif kind != "space":
            yield Token(kind, written, at, {"~": "MATCH", "!~": "NOT MATCH"}.get(written, written))
        before = before if kind == "space" else written.lower()
        at = match.end()


def _named(written: str, at: int, before: str, follows: str, types: Types | None) -> Token:
    """Return a name as what it stands for: a keyword, a function or a field."""
    name = written.lower()
    if name in _AFTER.get(before, ()) or (name in KEYWORDS and not (follows == "(" and name in (types or ()))):
        return Token("name", written, at, name)
    if follows == "(" and name not in (types or ()):
        if name not in _FUNCTIONS:
            raise mistake(f"unknown function {written!r}; there are {', '.join(sorted(_FUNCTIONS))}")
        return Token("function", written, at, name)
    return Token("field", written, at, _field(written, types))


def _field(name: str, types: Types | None) -> str:
    if types is None:
        return quoted(name)
    if name.lower() in types:
        return quoted(types[name.lower()][0])
    close = difflib.get_close_matches(name.lower(), types, n=1)
    close = close or [key for key in types if key.replace("-", " ").split()[:1] == [name.lower()]]
    meant = f"did you mean {as_written(types[close[0]][0])}? " if close else ""
    raise mistake(f"unknown field {name!r}; {meant}{_known(types)}; text needs quotes: '{name}'")


def _check_parentheses(tokens: Sequence[Token]) -> None:
    open_ones: list[int] = []
    for token in tokens:
        if token.written == "(":
            open_ones.append(token.at)
        elif token.written == ")":
            if not open_ones:
                raise mistake(f"the parenthesis at character {token.at + 1} closes nothing")
            open_ones.pop()
    if open_ones:
        raise mistake(f"the parenthesis at character {open_ones[-1] + 1} is not closed")


def _check_commas(tokens: Sequence[Token]) -> None:
    """Refuse a comma outside of parentheses, as in ``price > 12,5``: SQLite calls it a row value."""
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.written, 0)
        if token.written == "," and not depth:
            raise mistake(
                f"a comma stands at character {token.at + 1}; write numbers with a point, such as 12.5, and several "
                "values as in (1, 2)"
            )


def _check_depth(tokens: Sequence[Token]) -> None:
    """Refuse what is nested too deeply to be read."""
    depth = 0
    for token in tokens:
        word = token.written.lower() if token.kind in ("operator", "name") else ""
        depth += (word in ("(", "case")) - (word in (")", "end"))
        if depth > MOST_PARENTHESES:
            raise mistake(f"nests parentheses to a depth of more than {MOST_PARENTHESES}; simplify it")


def _check_chains(tokens: Sequence[Token]) -> None:
    """Refuse ``2000 < year < 2010``, which SQLite reads as ``(2000 < year) < 2010``."""
    compared = [""]
    for token in tokens:
        word = token.written.lower()
        if word == "(":
            compared.append("")
        elif word == ")":
            compared.pop()
        elif token.kind == "operator" and word in _COMPARISONS:
            if compared[-1]:
                raise mistake(
                    f"{compared[-1]!r} and {word!r} compare one after the other; join two comparisons with `and`"
                )
            compared[-1] = word
        elif word == "," or (token.kind == "name" and word in ("and", "or", "when", "then", "else")):
            compared[-1] = ""


def _known(types: Types) -> str:
    names = [as_written(name) for name, _ in types.values()]
    more = f" and {len(names) - _SHOWN_FIELDS} more" if len(names) > _SHOWN_FIELDS else ""
    return f"the fields are {', '.join(names[:_SHOWN_FIELDS])}{more}"

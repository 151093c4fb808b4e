"""What the values of a filter are, and comparisons that SQLite would answer otherwise than they are meant.

SQLite compares a number with a text without an error: the text is always the greater one. Columns convert what they are
compared with to their own type; results of functions, and columns of both types, do not. So this module finds the
operands of each comparison, through signs, parentheses, ``between``, ``in``, ``is`` and ``case``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from llama2vec.errors import FilterError
from llama2vec.retrieve.index.field_table import quoted

KEYWORDS = frozenset([
    "and", "as", "between", "case", "cast", "collate", "else", "end", "escape", "false", "glob", "in", "is", "isnull",
    "like", "not", "notnull", "null", "or", "then", "true", "when",
])  # fmt: skip
Types: TypeAlias = Mapping[str, tuple[str, str]]
"""A field's name in lower case → its name and declared type."""

_PLAIN_NAME = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_BINDS = {
    "or": 1, "and": 2, "=": 4, "==": 4, "!=": 4, "<>": 4, "~": 4, "!~": 4, "is": 4, "in": 4, "like": 4, "glob": 4,
    "between": 4, "isnull": 4, "notnull": 4, "not": 4, "<": 5, "<=": 5, ">": 5, ">=": 5, "+": 8, "-": 8, "*": 9,
    "/": 9, "%": 9,
}  # fmt: skip
"""How tightly the operators of SQLite bind; a prefixed ``not`` stands between ``and`` and ``=``."""
_NOT = 3
_ORDERS = frozenset(["<", "<=", ">", ">=", "between"])
_TEXT_FUNCTIONS = frozenset([
    "date", "datetime", "lower", "ltrim", "replace", "rtrim", "strftime", "substr", "time", "trim", "typeof", "upper",
])  # fmt: skip
_NUMBER_FUNCTIONS = frozenset(["abs", "instr", "julianday", "length", "round", "unixepoch"])


class Token(NamedTuple):
    """A word of an expression."""

    kind: str
    written: str  # As in the expression
    at: int
    sql: str


@dataclass(frozen=True, slots=True)
class _Operand:
    kind: Literal["number", "text", "mixed", "null", "unknown"]
    begin: int = 0  # Its words
    end: int = 0
    converts: bool = False  # Whether it turns what it is compared with into its own type, as a column or a cast does
    column: str = ""  # Its SQL, where it is a column and nothing else
    literal: str | None = None  # Where it is a literal, with its signs
    word: str = ""  # true, false


class _UnreadError(Exception):
    """The words do not form an expression; SQLite says why."""


def mistake(problem: str) -> FilterError:
    """Return the error that says what is wrong with a filter."""
    return FilterError(f"where: {problem}")


def as_written(name: str) -> str:
    """Return a field's name as a filter writes it."""
    plain = _PLAIN_NAME.fullmatch(name) and name.lower() not in KEYWORDS
    return name if plain else f"[{name}]" if "]" not in name else f"`{name.replace('`', '``')}`"


def typed_sql(where: str, tokens: Sequence[Token], types: Types) -> str:
    """Return an expression as SQL; refuse comparisons of a number with a text.

    A number that a column of both types is compared with by ``=``, ``!=`` or ``in`` is looked for as both.

    Raises:
        FilterError: Such a comparison, one with null, or a text that stands as a condition.
    """
    reading = _Reading(where, tokens, types)
    try:
        reading.condition(reading.expression(0))
    except _UnreadError:
        return " ".join(token.sql for token in tokens)
    return " ".join(filter(None, reading.sql))


class _Reading:
    """One reading of an expression, by how tightly its operators bind."""

    def __init__(self, where: str, tokens: Sequence[Token], types: Types) -> None:
        self._where, self._tokens = where, tokens
        self._declared = {quoted(name): (as_written(name), kind) for name, kind in types.values()}
        self._at = 0
        self.sql = [token.sql for token in tokens]

    def expression(self, binds: int) -> _Operand:
        """Read an expression up to the first operator that binds as loosely as ``binds``."""
        left = self._operand()
        while (strength := _BINDS.get(self._word(), 0)) > binds:
            begin, operator, place = left.begin, self._take(), self._at - 1
            if operator in ("and", "or"):
                self.condition(left)
                self.condition(self.expression(strength))
            elif operator in ("isnull", "notnull"):
                pass
            elif operator == "not" and self._word() == "null":
                self._take()
            elif operator in ("+", "-", "*", "/", "%"):
                self.expression(strength)
            else:
                self._comparison(left, operator, place, strength)
            left = _Operand("number", begin, self._at)
        return left

    def condition(self, one: _Operand) -> None:
        """Refuse a text as a condition: SQLite reads it as a number."""
        if one.kind not in ("text", "mixed"):
            return
        shown = self._shown(one)
        holds = f"{shown} is text" if one.literal is not None or not one.column else self._holds(one)
        raise mistake(f"{holds}, so it cannot be a condition by itself; compare it, or write {shown} is not null")

    def _comparison(self, left: _Operand, operator: str, place: int, strength: int) -> None:
        negated = operator == "not"
        if negated:
            operator = self._take()
        if operator in ("like", "glob", "~", "!~"):
            self._check_null(left, operator, right := self.expression(strength))
            self._check_null(right, operator, left)
            if self._word() == "escape":
                self._take()
                self.expression(strength)
        elif operator == "between":
            for joint in ("and", ""):
                self._check(left, operator, self.expression(strength))
                if joint and self._take() != joint:
                    raise _UnreadError
        elif operator == "in":
            self._members(left)
        elif operator == "is":
            self._is(left, place)
        elif not negated:
            right = self.expression(strength)
            self._check(left, operator, right)
            self._find_both(left, operator, place, right)
        else:
            raise _UnreadError

    def _members(self, left: _Operand) -> None:
        if self._take() != "(":
            raise _UnreadError
        while self._word() != ")":
            # SQLite leaves the members as they are, columns too.
            one = replace(self.expression(0), converts=False)
            self._check(left, "in", one)
            if (both := _as_both(left, one)) is not None:
                self._write(one, both)
            if self._word() == ",":
                self._take()
        self._take()

    def _is(self, left: _Operand, place: int) -> None:
        negated = self._word() == "not"
        if negated:
            self._take()
        right = self.expression(4)
        if right.word:
            self.condition(left)
        elif right.kind != "null" and left.kind != "null":
            self._check(left, "is", right)
            column, literal = (left, right) if left.kind == "mixed" else (right, left)
            if (both := _as_both(column, literal)) is not None:
                found = f"coalesce({column.column} IN ({both}), 0)"
                self._replace(left, place, right, f"NOT {found}" if negated else found)

    def _find_both(self, left: _Operand, operator: str, place: int, right: _Operand) -> None:
        column, literal = (left, right) if left.kind == "mixed" else (right, left)
        if operator not in _ORDERS and (both := _as_both(column, literal)) is not None:
            found = f"{column.column} {'IN' if operator in ('=', '==') else 'NOT IN'} ({both})"
            self._replace(left, place, right, found)

    def _replace(self, left: _Operand, place: int, right: _Operand, sql: str) -> None:
        for one in range(left.begin, right.end):
            self.sql[one] = ""
        self.sql[place] = f"({sql})"

    def _write(self, one: _Operand, sql: str) -> None:
        self.sql[one.begin : one.end] = [sql, *[""] * (one.end - one.begin - 1)]

    def _operand(self) -> _Operand:
        begin = self._at
        signs: list[str] = []
        while self._word() in ("+", "-"):
            signs.append(self._take())
        if self._word() == "not":
            if signs:
                raise _UnreadError
            while self._word() == "not":
                self._take()
            self.condition(self.expression(_NOT))
            return _Operand("number", begin, self._at)
        one = self._primary()
        while self._word() == "collate":
            self._take()
            self._take()
            one = replace(one, column="")
        return self._signed(replace(one, begin=begin, end=self._at), signs)

    def _signed(self, one: _Operand, signs: Sequence[str]) -> _Operand:
        if not signs or one.kind == "null":
            return one
        sign = "-" if signs.count("-") % 2 else ""
        if one.kind == "number" and one.literal is not None:
            return replace(one, literal=one.literal[1:] if sign and one.literal[0] == "-" else sign + one.literal)
        kind = "number" if sign or "-" in signs else one.kind
        return _Operand(kind, one.begin, one.end)

    def _primary(self) -> _Operand:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        word = self._take()
        if token is None:
            raise _UnreadError
        if token.kind == "number":
            return _Operand("number", literal=token.written)
        if token.kind == "text":
            return _Operand("text", literal=token.sql[1:-1].replace("''", "'"))
        if token.kind == "field":
            return self._field(token)
        if token.kind == "function":
            return self._function(word)
        if word == "(":
            inner = self.expression(0)
            if self._word() == ",":
                raise mistake("holds a list in parentheses outside of `in (…)`; compare one value at a time")
            return self._closed(inner)
        if word in ("true", "false"):
            return _Operand("number", literal="1" if word == "true" else "0", word=word)
        if word == "null":
            return _Operand("null")
        if word == "cast":
            return self._cast()
        if word == "case":
            return self._case()
        raise _UnreadError

    def _field(self, token: Token) -> _Operand:
        kind = self._declared[token.sql][1]
        if kind in ("INTEGER", "REAL"):
            return _Operand("number", converts=True, column=token.sql)
        kinds: dict[str, Literal["text", "mixed"]] = {"TEXT": "text", "": "mixed"}
        return _Operand(kinds.get(kind, "unknown"), converts=kind == "TEXT", column=token.sql)

    def _function(self, name: str) -> _Operand:
        if self._take() != "(":
            raise _UnreadError
        number = 0
        while self._word() != ")":
            argument = self.expression(0)
            if name == "iif" and number == 0:
                self.condition(argument)
            number += 1
            if self._word() == ",":
                self._take()
        self._take()
        if name in _TEXT_FUNCTIONS:
            return _Operand("text")
        return _Operand("number" if name in _NUMBER_FUNCTIONS else "unknown")

    def _cast(self) -> _Operand:
        if self._take() != "(":
            raise _UnreadError
        self.expression(0)
        if self._take() != "as":
            raise _UnreadError
        kind = self._take()
        return self._closed(_Operand("text" if kind == "text" else "number", converts=True))

    def _case(self) -> _Operand:
        base = self.expression(0) if self._word() != "when" else None
        while self._word() == "when":
            self._take()
            when = self.expression(0)
            if base is None:
                self.condition(when)
            else:
                self._check(base, "when", when)
            if self._take() != "then":
                raise _UnreadError
            self.expression(0)
        if self._word() == "else":
            self._take()
            self.expression(0)
        if self._take() != "end":
            raise _UnreadError
        return _Operand("unknown")

    def _closed(self, one: _Operand) -> _Operand:
        if self._take() != ")":
            raise _UnreadError
        return one

    def _word(self) -> str:
        """Return the next keyword or operator; "" for a value."""
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token.written.lower() if token and token.kind in ("operator", "name") else ""

    def _take(self) -> str:
        if self._at >= len(self._tokens):
            raise _UnreadError
        self._at += 1
        return self._tokens[self._at - 1].written.lower()

    def _shown(self, one: _Operand) -> str:
        """Return an operand as the filter writes it; a field without its sign or parentheses."""
        if one.column:
            return self._declared[one.column][0]
        tokens = self._tokens[one.begin : one.end]
        return self._where[tokens[0].at : tokens[-1].at + len(tokens[-1].written)]

    def _holds(self, one: _Operand) -> str:
        holds = {"text": "text", "mixed": "text in some passages and numbers in others", "number": "numbers"}[one.kind]
        return f"{self._shown(one)} {'holds' if one.column else 'is' if holds == 'text' else 'gives'} {holds}"

    def _check_null(self, one: _Operand, operator: str, other: _Operand) -> None:
        if one.kind == "null":
            shown = self._shown(other)
            if operator == "in":
                raise mistake(f"null in a list matches nothing; take it out, and write {shown} is null")
            negated = "not " if operator in ("!=", "<>", "!~") else ""
            raise mistake(f"nothing compares with null; write {shown} is {negated}null")

    def _check(self, left: _Operand, operator: str, right: _Operand) -> None:
        """Refuse a comparison that has the same answer for every value, or for all of one type."""
        self._check_null(left, operator, right)
        self._check_null(right, operator, left)
        for one, other in ((left, right), (right, left)):
            if one.kind == "mixed":
                self._check_mixed(one, operator, other)
            elif one.kind == "number" and other.kind == "text" and one.literal is None:
                self._check_number(one, operator, other)
            elif one.kind == "text" and other.kind == "number" and one.literal is None:
                self._check_text(one, operator, other)

    def _check_mixed(self, one: _Operand, operator: str, other: _Operand) -> None:
        is_equality = operator not in _ORDERS and operator != "when"
        if other.kind in ("unknown", "mixed") or (is_equality and one.column and _as_both(one, other) is not None):
            return
        if other.kind == "text" and is_equality and (other.literal is None or not _NUMBER.fullmatch(other.literal)):
            return
        shown = self._shown(one)
        raise mistake(
            f"{self._holds(one)}; compare numbers with cast({shown} as real), or texts with cast({shown} as text)"
        )

    def _check_number(self, one: _Operand, operator: str, other: _Operand) -> None:
        value = self._shown(other)
        if other.literal is None:
            if one.converts or other.converts:
                return
            raise mistake(f"{self._holds(one)} and {self._holds(other)}; convert one of them with cast")
        numeric = _NUMBER.fullmatch(other.literal)
        if numeric and one.converts:
            return
        if numeric:
            raise mistake(f"{self._holds(one)}; write {numeric[1]} without quotes")
        shown, meant = self._shown(one), other.literal.lower()
        hint = f"; write {shown} {operator} {meant}" if meant in ("true", "false") else ""
        raise mistake(f"{self._holds(one)}, which {value} is not{hint}")

    def _check_text(self, one: _Operand, operator: str, other: _Operand) -> None:
        value = other.word or self._shown(other)
        if other.word:
            raise mistake(f"{self._holds(one)}; put {value} in quotes")
        if one.converts and operator not in _ORDERS:
            return
        if other.literal is None and other.converts:
            return  # The other one turns this text into a number
        shown = self._shown(one)
        quotes = f", or put {value} in quotes" if other.literal is not None else ""
        raise mistake(f"{self._holds(one)}; compare numbers with cast({shown} as real){quotes}")


def _as_both(column: _Operand, value: _Operand) -> str | None:
    """Return a numeric literal as number and as text, where a column of both types is compared with it."""
    if column.kind != "mixed" or not column.column or value.literal is None or value.word:
        return None
    number = _NUMBER.fullmatch(value.literal)
    return f"{number[1]}, '{value.literal}'" if number else None

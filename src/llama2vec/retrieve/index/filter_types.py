"""What the values of a filter are, and comparisons that SQLite would answer otherwise than they are meant.

SQLite compares a number with a text without an error: the text is always the greater one. Columns convert what they are
compared with to their own type; results of functions, and columns of both types, do not. So this module finds the
operands of each comparison, through signs, parentheses, ``between``, ``in``, ``is`` and ``case``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)
MOST_PARENTHESES, _MOST_EXPRESSIONS = 50, 100
"""How deeply a filter nests. Parentheses and ``case`` are counted first, in words that name the limit; expressions,
which signs and ``not`` also nest, may go about as deep as SQLite's own parser takes them."""
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
TOO_DEEP = "nests expressions too deeply; simplify it"


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

    A column of both types equals a number, true or false where it holds that or the same as text.

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
        self._at = self._depth = 0
        self.sql = [token.sql for token in tokens]

    def expression(self, binds: int) -> _Operand:
        """Read an expression up to the first operator that binds as loosely as ``binds``."""
        self._depth += 1
        if self._depth > _MOST_EXPRESSIONS:
            raise mistake(TOO_DEEP)
        left = self._operand()
        while (strength := _BINDS.get(self._word(), 0)) > binds:
            begin, operator, place = left.begin, self._take(), self._at - 1
            if operator in ("and", "or"):
                self.condition(left)
                self.condition(self.expression(strength))
            elif operator in ("isnull", "notnull") or (operator == "not" and self._took("null")):
                pass
            elif operator in ("+", "-", "*", "/", "%"):
                self.expression(strength)
            else:
                self._comparison(left, operator, place, strength)
            left = _Operand("number", begin, self._at)
        self._depth -= 1
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
            self._check_null(left, operator, self.expression(strength))
            if self._took("escape"):
                self.expression(strength)
        elif operator == "between":
            self._check(left, operator, self.expression(strength))
            self._expect("and")
            self._check(left, operator, self.expression(strength))
        elif operator == "in":
            self._members(left)
        elif operator == "is":
            self._is(left, place)
        elif not negated:
            right = self.expression(strength)
            self._check(left, operator, right)
            column, both = _column_and_both(left, right)
            if both is not None and operator not in _ORDERS:
                found = f"{column} {'IN' if operator in ('=', '==') else 'NOT IN'} ({both})"
                self._replace(left, place, right, found)
        else:
            raise _UnreadError

    def _members(self, left: _Operand) -> None:
        for one in self._listed():
            both = _as_both(left, one, in_list=True)
            # SQLite leaves the members as they are, columns too.
            self._check(left, "in", replace(one, converts=both is not None))
            if both is not None:
                self.sql[one.begin : one.end] = [both, *[""] * (one.end - one.begin - 1)]

    def _is(self, left: _Operand, place: int) -> None:
        negated, right = self._took("not"), self.expression(4)
        column, both = _column_and_both(left, right)
        if both is not None:
            found = f"coalesce({column} IN ({both}), 0)"
            self._replace(left, place, right, f"NOT {found}" if negated else found)
        elif right.word:
            self.condition(left)
        elif right.kind != "null" and left.kind != "null":
            self._check(left, "is", right)

    def _replace(self, left: _Operand, place: int, right: _Operand, sql: str) -> None:
        for one in range(left.begin, right.end):
            self.sql[one] = ""
        self.sql[place] = f"({sql})"

    def _operand(self) -> _Operand:
        begin = self._at
        signs: list[str] = []
        while self._word() in ("+", "-"):
            signs.append(self._take())
        if self._word() == "not" and not signs:
            while self._word() == "not":
                self._take()
            self.condition(self.expression(_NOT))
            return _Operand("number", begin, self._at)
        one = self._primary()
        while self._took("collate"):
            self._take()
            one = replace(one, column="")
        return self._signed(replace(one, begin=begin, end=self._at), signs)

    def _signed(self, one: _Operand, signs: Sequence[str]) -> _Operand:
        if not signs or one.kind == "null":
            return one
        sign = "-" if signs.count("-") % 2 else ""
        if one.kind == "number" and one.literal is not None:
            literal = one.literal[1:] if sign and one.literal[0] == "-" else sign + one.literal
            return replace(one, literal=literal, word="")
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
                raise mistake("holds a list outside of `in (…)`; compare one value at a time, and write 12.5, not 12,5")
            self._expect(")")
            return inner
        if word in ("true", "false"):
            return _Operand("number", literal="1" if word == "true" else "0", word=word)
        if word == "null":
            return _Operand("null")
        if word in ("cast", "case"):
            return self._cast() if word == "cast" else self._case()
        raise _UnreadError

    def _field(self, token: Token) -> _Operand:
        kind = self._declared[token.sql][1]
        if kind in ("INTEGER", "REAL"):
            return _Operand("number", converts=True, column=token.sql)
        kinds: dict[str, Literal["text", "mixed"]] = {"TEXT": "text", "": "mixed"}
        return _Operand(kinds.get(kind, "unknown"), converts=kind == "TEXT", column=token.sql)

    def _function(self, name: str) -> _Operand:
        for number, argument in enumerate(self._listed()):
            if name == "iif" and number == 0:
                self.condition(argument)
        if name in _TEXT_FUNCTIONS:
            return _Operand("text")
        return _Operand("number" if name in _NUMBER_FUNCTIONS else "unknown")

    def _cast(self) -> _Operand:
        self._expect("(")
        self.expression(0)
        self._expect("as")
        kind = self._take()
        self._expect(")")
        return _Operand("text" if kind == "text" else "number", converts=True)

    def _case(self) -> _Operand:
        base = self.expression(0) if self._word() != "when" else None
        while self._took("when"):
            when = self.expression(0)
            if base is None:
                self.condition(when)
            else:
                self._check(base, "when", when)
            self._expect("then")
            self.expression(0)
        if self._took("else"):
            self.expression(0)
        self._expect("end")
        return _Operand("unknown")

    def _listed(self) -> Iterator[_Operand]:
        """Read the expressions of a list in parentheses, one after the other."""
        self._expect("(")
        while self._word() != ")":
            yield self.expression(0)
            self._took(",")
        self._take()

    def _expect(self, word: str) -> None:
        if self._take() != word:
            raise _UnreadError

    def _word(self) -> str:
        """Return the next keyword or operator; "" for a value."""
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token.written.lower() if token and token.kind in ("operator", "name") else ""

    def _took(self, word: str) -> bool:
        """Take the next word if it is this one."""
        if self._word() != word:
            return False
        self._take()
        return True

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

    def _check_null(self, left: _Operand, operator: str, right: _Operand) -> None:
        if "null" in (left.kind, right.kind):
            shown = self._shown(right if left.kind == "null" else left)
            if operator == "in":
                raise mistake(f"null in a list matches nothing; take it out, and write {shown} is null")
            negated = "not " if operator in ("!=", "<>", "!~") else ""
            raise mistake(f"nothing compares with null; write {shown} is {negated}null")

    def _check(self, left: _Operand, operator: str, right: _Operand) -> None:
        """Refuse a comparison that has the same answer for every value, or for all of one type."""
        self._check_null(left, operator, right)
        for one, other in ((left, right), (right, left)):
            if one.kind == "mixed":
                self._check_mixed(one, operator, other)
            elif one.kind == "number" and other.kind == "text" and one.literal is None:
                self._check_number(one, operator, other)
            elif one.kind == "text" and other.kind == "number" and one.literal is None:
                self._check_text(one, operator, other)

    def _check_mixed(self, one: _Operand, operator: str, other: _Operand) -> None:
        if other.kind in ("unknown", "mixed"):
            return
        if operator not in _ORDERS:
            is_number = other.kind == "number" or _NUMBER.fullmatch(other.literal or "")
            # What `when` compares with cannot be written as both.
            if not is_number or other.converts or (operator != "when" and _as_both(one, other) is not None):
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


def _column_and_both(left: _Operand, right: _Operand) -> tuple[str, str | None]:
    """Return the column of a comparison, and what it equals by :func:`_as_both`."""
    column, other = (left, right) if left.column and left.kind != "number" else (right, left)
    return column.column, _as_both(column, other)


def _as_both(column: _Operand, value: _Operand, *, in_list: bool = False) -> str | None:
    """Return what a column of both types equals where it equals a number, true or false: that, and the same as text."""
    if column.kind == "text" and column.column and value.kind == "number" and value.literal and not value.word:
        return f"'{value.literal}'"  # As written, where SQLite would look for 1.1 instead of 1.10
    if column.kind != "mixed" or not column.column:
        return None
    if in_list and value.kind == "number" and value.column:  # Outside of lists, such a column converts the other one
        return f"CASE WHEN {column.column} = {value.column} THEN {column.column} ELSE {value.column} END"
    if value.word:
        return f"{value.literal}, '{value.word}'"
    number = _NUMBER.fullmatch(value.literal or "")
    return f"{number[1]}, '{value.literal}'" if number else None

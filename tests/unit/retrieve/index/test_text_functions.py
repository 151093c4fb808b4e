"""Upper and lower case, and patterns, in every alphabet."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from llama2vec.retrieve.index.text_functions import RAISED, TextFunctions


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("lower('ÄÖÜ МОСКВА Σ')", "äöü москва σ"),
        ("upper('größe')", "GRÖSSE"),
        ("lower(12) || upper(null) is null", 1),
        ("lower(7)", "7"),
        ("'STRASSE' = 'straße' collate nocase", 1),
        ("'ö' < 'P' collate nocase", 0),
        ("'a' like 'A' and 'a' not like 'b'", 1),
        ("2020 like '20%'", 1),
        ("'a' like null", None),
        ("match('ÖL', 'Köln')", 1),
        ("match('ÖL', null)", None),
    ],
)
def test_texts_are_compared_in_every_alphabet(connection: sqlite3.Connection, expression: str, value: object) -> None:
    TextFunctions(connection)
    assert connection.execute(f"SELECT {expression}").fetchone() == (value,)


LETTERS = ("", "a", "b", "A", "ab", "ba", "aab", "a%b", "a_b", "a\nb", "äb", "ss", "ß", "!")
PATTERNS = (
    "",
    "%",
    "_",
    "%%",
    "a%",
    "%b",
    "a%b",
    "_b",
    "a_b",
    "%a%",
    "_%_",
    "a!%b",
    "a!_b",
    "!!",
    "ß",
    "%s%s%",
    "%ab%b",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_those_of_sqlite_do(connection: sqlite3.Connection, pattern: str) -> None:
    statement = "SELECT ? LIKE ? ESCAPE '!'"
    with closing(sqlite3.connect(":memory:")) as built_in:
        expected = [built_in.execute(statement, [text, pattern]).fetchone() for text in LETTERS]
    TextFunctions(connection)
    assert [connection.execute(statement, [text, pattern]).fetchone() for text in LETTERS] == expected


@pytest.mark.parametrize(
    ("text", "pattern", "matches"),
    [
        ("Straße", "STRA_E", 1),
        ("Straße", "stra__e", 0),
        ("GROẞE STRAßE", "große straẞe", 1),
        ("Straße", "strasse", 0),
        ("ŉ İ ǰ ﬁ ᾳ ΣΑΣ ß", "ŉ İ ǰ ﬁ ᾼ σας ẞ", 1),
        ("ßß", "__", 1),
    ],
)
def test_a_letter_whose_cases_differ_in_length_is_one_letter(
    connection: sqlite3.Connection, text: str, pattern: str, matches: int
) -> None:
    TextFunctions(connection)
    assert connection.execute("SELECT ? LIKE ?", [text, pattern]).fetchone() == (matches,)


def test_a_text_with_such_a_letter_is_compared_about_as_fast_as_another(connection: sqlite3.Connection) -> None:
    TextFunctions(connection)

    def seconds(letter: str) -> float:
        texts = [(f"{letter}{number} " + "Die Gäste wohnen in der Stadt. " * 100, "%Hof%") for number in range(300)]
        began = time.process_time()
        for text in texts:
            connection.execute("SELECT ? LIKE ?", text).fetchone()
        return time.process_time() - began

    seconds("ß")
    assert min(seconds("ß") for _ in range(3)) < 5 * min(seconds("s") for _ in range(3))


def test_a_pattern_that_leaves_much_open_is_as_fast_as_another(connection: sqlite3.Connection) -> None:
    TextFunctions(connection)
    began = time.monotonic()
    assert connection.execute("SELECT ? LIKE ?", ["a" * 50_000, "%a" * 400 + "b"]).fetchone() == (0,)
    assert time.monotonic() - began < 5


def test_what_cannot_be_matched_is_told(connection: sqlite3.Connection) -> None:
    functions = TextFunctions(connection)
    for statement, fault in (
        (f"SELECT 'a' LIKE '{'%a' * 600}'", "LIKE or GLOB pattern too complex"),
        ("SELECT 'a' LIKE 'a' ESCAPE '!!'", "ESCAPE expression must be a single character"),
    ):
        with pytest.raises(sqlite3.OperationalError, match=RAISED):
            connection.execute(statement).fetchone()
        assert functions.fault == fault

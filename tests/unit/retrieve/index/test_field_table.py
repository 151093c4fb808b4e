"""The fields of passages as an SQLite table."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llama2vec.records import Passage, Place, Value
from llama2vec.retrieve.index.field_table import DOCUMENT, ROW, TABLE, TABLE_VERSION, quoted, write_field_table


def table(*fields: Mapping[str, Value]) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    """Return column → declared type, and the rows."""
    return table_of([Passage(str(number), "text", fields=one) for number, one in enumerate(fields)])


def table_of(passages: Sequence[Passage]) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    connection = write_field_table(passages, ":memory:")
    columns = {name: kind for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({TABLE})")}
    del columns[DOCUMENT]
    taken = ", ".join(map(quoted, columns))
    rows = connection.execute(f"SELECT {taken} FROM {TABLE} ORDER BY {quoted(ROW)}").fetchall()  # noqa: S608
    connection.close()
    return columns, rows


def test_values_keep_their_types_and_what_is_missing_is_null() -> None:
    columns, rows = table({"year": 2020, "price": 9, "tag": "a"}, {"price": 9.5, "open": True}, {"mixed": 1, "tag": ""})
    assert columns == {
        ROW: "INTEGER", "id": "TEXT", "title": "TEXT", "path": "TEXT", "page": "INTEGER", "year": "INTEGER",
        "price": "REAL", "tag": "TEXT", "open": "INTEGER", "mixed": "INTEGER",
    }  # fmt: skip
    assert rows[0] == (0, "0", None, None, None, 2020, 9.0, "a", None, None)
    assert rows[1] == (1, "1", None, None, None, None, 9.5, None, 1, None)
    assert rows[2][7:] == ("", None, 1)


def test_a_field_of_text_and_numbers_keeps_each_value() -> None:
    columns, rows = table({"price": 10}, {"price": "n/a"}, {"price": 1.5})
    assert columns["price"] == ""
    assert [row[-1] for row in rows] == [10, "n/a", 1.5]


def test_the_place_fills_path_and_page_and_a_field_of_their_name_what_is_empty(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place("guide/setup.md", 0, 4, first_line=1, last_line=1, page=3)
    fields = {"page": 9, "title": "Setup", "ID": "x", "path": "y"}
    columns, rows = table_of(
        [Passage("a", "text", "Guide › Setup", place, fields), Passage("b", "text", fields=fields)]
    )
    assert list(columns) == [ROW, "id", "title", "path", "page"]
    assert rows == [(0, "a", "Guide › Setup", "guide/setup.md", 3), (1, "b", "Setup", "y", 9)]
    assert "filters read path as the passage's own, not the field 'path'; rename it" in caplog.text
    assert "filters read id as the passage's own, not the field 'ID'; rename it" in caplog.text


def test_spellings_of_a_field_are_one_and_a_clash_is_told(caplog: pytest.LogCaptureFixture) -> None:
    columns, rows = table({"Year": 2020}, {"year": 2021}, {"YEAR": 1, "year": 2})
    assert list(columns)[-1] == "Year"
    assert [row[-1] for row in rows] == [2020, 2021, 1]
    assert "filters see one field for 'year' and its other spellings" in caplog.text


def test_unicode_forms_of_a_name_or_a_text_are_one(caplog: pytest.LogCaptureFixture) -> None:
    columns, rows = table({"Gr\u00f6\u00dfe": "K\u00f6ln"}, {"Gro\u0308\u00dfe": "Ko\u0308ln"})
    assert list(columns)[-1] == "Gr\u00f6\u00dfe"
    assert [row[-1] for row in rows] == ["K\u00f6ln", "K\u00f6ln"]
    assert caplog.text == ""
    connection = write_field_table(
        [Passage("a", "t", place=Place(name, 0, 1)) for name in ("u\u0308", "\u00fc")], ":memory:"
    )
    found = connection.execute(f"SELECT path, {quoted(DOCUMENT)} FROM {TABLE}").fetchall()  # noqa: S608
    assert found == [("\u00fc", "u\u0308"), ("\u00fc", None)]
    assert connection.execute("PRAGMA user_version").fetchone() == (TABLE_VERSION,)
    connection.close()


def test_odd_names_and_values_are_kept_as_far_as_sqlite_can() -> None:
    huge = {"a b": 1, 'quo"te': 2, "": 3, "\0": 4, "order": 5, "big": 10**30, "half": "\ud800", "nul": "a\0b"}
    columns, rows = table(huge, {"rowid": 7, ROW: 8, DOCUMENT: 9, "nan": float("nan")})
    assert list(columns)[5:] == ["a b", 'quo"te', "\ufffd", "order", "big", "half", "nul", "rowid", "nan"]
    assert rows[0][5:] == (1, 2, 4, 5, 1e30, "?", "a\ufffdb", None, None)
    assert rows[1][-2:] == (7, None)


def test_a_number_that_no_float_holds_is_kept_as_text() -> None:
    columns, rows = table({"n": 10**400}, {"n": -(10**400)}, {"n": 7}, {"n": 10**300})
    assert [row[list(columns).index("n")] for row in rows] == ["1" + "0" * 400, "-1" + "0" * 400, 7, 1e300]


def test_more_fields_than_sqlite_can_hold_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    columns, rows = table({f"f{number:04d}": number for number in range(2500)})
    assert len(columns) == 1991
    assert rows[0][5] == 0
    assert "filters can use 1990 fields; these 514 more are not among them: f1986" in caplog.text


def test_an_interrupted_table_leaves_no_open_connection(tmp_path: Path) -> None:
    def broken() -> Any:
        yield Passage("a", "text")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_field_table(broken(), tmp_path / "fields.sqlite")


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            cursor = super().execute(statement, *values)
            if statement == "PRAGMA synchronous = OFF":
                super().execute("PRAGMA max_page_count = 2")
            return cursor

    opened = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, **options: opened(file, factory=Full, **options))
    with pytest.raises(OSError, match="disk is full") as caught:
        write_field_table([Passage("a", "text", fields={"note": "x" * 100_000})], tmp_path / "fields.sqlite")
    assert caught.value.errno == errno.ENOSPC

"""Lines of files: where they end, and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from llama2vec.data.text import lines
from llama2vec.data.text.lines import columns_in, finite_score, header_columns, json_object, numbered_lines
from llama2vec.errors import CorpusFormatError, RunFormatError


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffone\r\n\n \ntwo\u2028three".encode())
    assert list(numbered_lines(tmp_path / "a")) == [(1, "one"), (4, "two\u2028three")]


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST_BYTES", 2**20)
    raw = b"short\n" + b"x" * (2**20 + 1)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.raises(RunFormatError, match=r":2 is longer than 1 MiB; write one row per line"):
        list(numbered_lines(tmp_path / name, RunFormatError))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusFormatError, match="not a regular file"):
        list(numbered_lines(tmp_path / "pipe"))


def test_a_value_that_is_not_an_object_is_named() -> None:
    with pytest.raises(RunFormatError, match=r"f:1 is a JSON list; write an object such as \{\}"):
        json_object("[1]", "f:1", "{}", RunFormatError)


@pytest.mark.parametrize("fields", [["17", "id"], ["id", "An id, written out."], ["a", "b", "c"]])
def test_a_row_of_data_is_not_a_header(fields: list[str]) -> None:
    assert header_columns(fields, "f:1") == {}


@pytest.mark.parametrize("text", ["", "good", "nan", "-inf", "1e999"])
def test_a_score_is_a_finite_number(text: str) -> None:
    assert finite_score(" -1.5e-3", "f:1") == -0.0015
    with pytest.raises(RunFormatError, match=f"f:1 has the score '{text}'; a score is a finite number"):
        finite_score(text, "f:1", RunFormatError)


def test_one_column_is_not_a_plural() -> None:
    assert [columns_in(row) for row in ([], ["a"], ["a", "b"])] == ["0 columns", "1 column", "2 columns"]

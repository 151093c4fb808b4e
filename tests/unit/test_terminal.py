"""Nothing but printable text reaches a terminal."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from llama2vec.terminal import PlainFormatter, PlainStream, plain_terminal, printable, unprotected

OSC_LINK = "\x1b]8;;http://x\x07here\x1b]8;;\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tab\tand\nnewline", "tab\tand\nnewline"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (OSC_LINK, "\\x1b]8;;http://x\\x07here\\x1b]8;;\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten\x08", "over\\rwritten\\x08"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("half \ud83d", "half \\ud83d"),
        ("橋 é ☃", "橋 é ☃"),
    ],
)
def test_control_sequences_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_console_of_another_encoding_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252", write_through=True))
    with plain_terminal():
        print("橋 é \x1b[2J")
    assert raw.getvalue() == b"? \xe9 \\x1b[2J\n"


def test_stdout_and_stderr_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr
    with plain_terminal():
        assert isinstance(sys.stdout, PlainStream)
        assert unprotected(sys.stdout) is before[0]
    assert (sys.stdout, sys.stderr) == before


def test_a_closed_stream_swallows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with plain_terminal():
        print("gone")
    assert sys.stdout is None


def test_stderr_lets_the_cursor_movements_of_progress_bars_through() -> None:
    raw = io.StringIO()
    PlainStream(raw, bars=True).write("\r50 %\x1b[A\x1b[31m")
    assert raw.getvalue() == "\r50 %\x1b[A\\x1b[31m"


def test_click_cannot_write_past_the_stream() -> None:
    import click

    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace", write_through=True)
    click.echo("\x1b]0;title\x07橋", file=PlainStream(raw))
    assert raw.buffer.getvalue() == b"\\x1b]0;title\\x07?\n"  # type: ignore[attr-defined]


def test_log_lines_are_printable() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", ("a\x1b[31m\rb",), None)
    assert PlainFormatter("%(message)s").format(record) == "a\\x1b[31m\\rb"

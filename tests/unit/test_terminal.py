"""Nothing but printable text reaches a terminal."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path

import pytest

from llama2vec import terminal
from llama2vec.terminal import (
    PlainFormatter,
    PlainStream,
    ProgressReporter,
    counted,
    display,
    plain_terminal,
    printable,
    printable_line,
    unprotected,
    wrapped,
)

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


def test_a_name_within_a_line_shows_its_line_breaks_and_tabs() -> None:
    assert printable_line("a\n\tb\r\u2028c\x1b") == r"a\n\tb\r\u2028c\x1b"


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 12_345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]
    assert [counted(number, "query", "queries") for number in (1, 2)] == ["1 query", "2 queries"]


def test_no_message_writes_a_count_and_its_plural_by_hand() -> None:
    source, found = Path(terminal.__file__).parent, set()
    for path in sorted(source.rglob("*.py")):
        for noun in re.findall(r":,\} (?:sign )?([a-z]+s)\b", path.read_text(encoding="utf-8")):
            found.add((path.relative_to(source).as_posix(), noun))
    limits = {(path, noun) for path, noun in found if noun in ("bytes", "characters")}
    several = {
        ("data/documents/readers/__init__.py", "files"), ("data/documents/readers/archives.py", "files"),
        ("data/documents/readers/json_rows.py", "lines"), ("data/documents/readers/json_rows.py", "rows"),
        ("pipeline/samples.py", "passages"), ("retrieve/index/faiss.py", "cells"),
        ("retrieve/index/faiss.py", "passages"), ("score/comparison.py", "patterns"),
    }  # fmt: skip
    assert found - limits == several


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still at its one item."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_a_log_line_every_few_seconds_without_a_terminal(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("encoding", "passage") as progress:
        progress.start(1000)
        progress.skip(400)
        clock[0] = 5
        progress.advance(100)
        clock[0] = 10
        progress.advance(200)
        assert caplog.messages == ["encoding: 300 of 600 passages, 40.0/s, 8 s left"]


def test_the_time_left_leaves_out_the_first_part_which_waits_for_a_model(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("encoding", "passage") as progress:
        progress.start(2000)
        clock[0] = 15
        progress.advance(1)
        clock[0] = 25
        progress.advance(99)
        clock[0] = 215
        progress.advance(1900)
    assert caplog.messages == [
        "encoding: 1 of 2,000 passages",
        "encoding: 100 of 2,000 passages, 9.9/s, 3:12 left",
        "encoding: 2,000 of 2,000 passages, 9.3/s",
        "encoding: 2,000 of 2,000 passages, 9.3/s",
    ]


def test_finished_work_has_no_time_left(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("reading", "file") as progress:
        progress.start(2)
        clock[0] = 4
        progress.advance(2)
    assert caplog.messages == ["reading: 2 of 2 files, 2.0 s each"]


def test_items_count_as_they_are_taken(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("reading", "passage") as progress:
        progress.start(None)
        for _ in progress.counted("abc"):
            clock[0] += 8
    assert caplog.messages == ["reading: 2 passages, 8.0 s each", "reading: 3 passages, 8.0 s each"]


def test_one_is_not_counted_in_the_plural(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    for total, unit in ((None, ("passage",)), (1, ("query", "queries")), (None, ("query", "queries"))):
        with caplog.at_level(logging.INFO), ProgressReporter("reading", *unit) as progress:
            progress.start(total)
            clock[0] += 8
            progress.advance(1)
    assert caplog.messages == [
        "reading: 1 passage, 8.0 s each",
        "reading: 1 of 1 query, 8.0 s each",
        "reading: 1 query, 8.0 s each",
    ]


def test_what_an_earlier_run_finished_does_not_count_towards_the_rate(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("training", "step") as progress:
        progress.start(100, completed=50)
        clock[0] = 100.0
        progress.advance(5)
        clock[0] = 150.0
        progress.advance(5)
    assert "training: 60 of 100 steps, 10.0 s each, 6:40 left" in caplog.messages


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 100])
def test_a_bar_is_whole_at_80_columns(clock: list[float], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    with ProgressReporter("reading what is known", "passage") as progress:
        progress.start(8_841_823)
        progress.advance(67)
        clock[0] = 3600
        progress.advance(1_234_500)
        progress.describe("loss 3.214")
    lines = [line.rstrip() for line in re.split(r"\r|\n", re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue()))]
    assert any(line.endswith(" 1,234,567/8,841,823, 342.9/s, 6:09 h left loss 3.214") for line in lines), lines
    assert all(len(line) <= width for line in lines)


def test_lines_continue_below_their_last_column() -> None:
    line = "  skipped     5  a picture: photograph-0.png, photograph-1.png, … 2 more"
    assert wrapped(line, 60) == [
        "  skipped     5  a picture: photograph-0.png,",
        "                 photograph-1.png, … 2 more",
    ]
    assert wrapped(line, None) == [line]
    # Without room for a column, and in a sentence, the rest is indented.
    assert wrapped("  the first and the second and the third", 30) == [
        "  the first and the second and",
        "    the third",
    ]
    assert wrapped("one two three four", 12) == ["one two", "  three four"]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("the difference lies in [−0.100, +0.200] at most", "[−0.100, +0.200]"),
        ("no difference is shown (p = 0.3000 after Holm)", "(p = 0.3000"),
        ("peak memory of all the stages is ~ 3.0 GiB here", "~ 3.0 GiB"),
        ("what they show as true with 80 % power or more", "80 %"),
        ("use it with `llama2vec run a.toml` from now on", "`llama2vec run a.toml`"),
    ],
)
def test_what_belongs_together_stays_on_one_line(text: str, whole: str) -> None:
    for width in range(26, 50):
        lines = wrapped(text, width)
        assert any(whole in line for line in lines), lines
        assert " ".join(" ".join(lines).split()) == text
        assert max(map(len, lines)) <= width


def test_a_word_wider_than_the_terminal_stays_whole_with_less_indentation() -> None:
    path = "/work/" + "harbour/" * 4 + "corpus.jsonl"
    assert wrapped(f"Wrote {path}", 52) == ["Wrote", f"  {path}"]
    assert wrapped(f"Wrote {path}", 50) == ["Wrote", path]
    assert wrapped(f"Wrote {path}", 40) == ["Wrote", path]


def test_text_without_spaces_in_wide_characters_is_broken_between_them() -> None:
    assert wrapped("起重机提升重物", 8) == ["起重机提", "  升重物"]


def test_a_table_is_shown_in_the_width_of_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Widths:
        def lines(self, width: int | None) -> list[str]:
            return [f"{width}"]

    monkeypatch.setenv("COLUMNS", "72")
    for name, screen, err in (("stdout", _Terminal(), False), ("stderr", _Terminal(), True)):
        monkeypatch.setattr(sys, name, screen)
        display(Widths(), "text", err=err)
        assert screen.getvalue() == "72\ntext\n"
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    display(Widths())
    assert pipe.getvalue() == "None\n"

"""Progress reports."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from llama2vec import progress as progress_module
from llama2vec.progress import ProgressReporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still at its one item."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_a_log_line_every_few_seconds_without_a_terminal(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("encoding", "passages") as progress:
        progress.start(1000)
        progress.skip(400)
        clock[0] = 5
        progress.advance(100)
        clock[0] = 10
        progress.advance(200)
        assert caplog.messages == ["encoding: 300 of 600 passages, 30.0/s, 10 s left"]


def test_what_an_earlier_run_finished_does_not_count_towards_the_rate(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ProgressReporter("training", "steps") as progress:
        progress.start(100, completed=50)
        clock[0] = 100.0
        progress.advance(10)
    assert "training: 60 of 100 steps, 10.0 s each, 6:40 left" in caplog.messages


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 100])
def test_a_bar_is_whole_at_80_columns(clock: list[float], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    with ProgressReporter("reading what is known", "passages") as progress:
        progress.start(8_841_823)
        clock[0] = 3600
        progress.advance(1_234_567)
        progress.describe("loss 3.214")
    lines = [line.rstrip() for line in re.split(r"\r|\n", re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", terminal.getvalue()))]
    assert any(line.endswith(" 1,234,567/8,841,823, 342.9/s, 6:09 h left loss 3.214") for line in lines), lines
    assert all(len(line) <= width for line in lines)

"""Progress reports."""

from __future__ import annotations

import logging

import pytest

from llama2vec import progress as progress_module
from llama2vec.progress import ProgressReporter


def test_progress_is_a_log_line_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress_module, "_LOG_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO), ProgressReporter("encoding", "passages") as progress:
        progress.start(10)
        progress.skip(4)
        progress.advance(3)
    assert "encoding: 3 of 6 passages" in caplog.text
    assert "s left" in caplog.text


def test_what_an_earlier_run_finished_does_not_count_towards_the_rate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress_module, "_LOG_EVERY_SECONDS", 0.0)
    clock = iter([0.0, 100.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), ProgressReporter("training", "steps") as progress:
        progress.start(100, completed=50)
        progress.advance(10)
    assert "training: 60 of 100 steps, 1.00/s, 40 s left" in caplog.text


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressReporter("encoding", "passages") as progress:
        progress.start(10)
        progress.skip(4)
        progress.advance(3)
    assert "3/6" in capsys.readouterr().err

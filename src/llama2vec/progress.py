"""Progress of long work: a bar with rate and time left on a terminal, plain log lines elsewhere. Always on stderr."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS = 10.0


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.1f} {self._unit}/s", style="progress.data.speed")


class ProgressReporter:
    """Report how far long work is; use as a context manager.

    Args:
        title: What is being done, such as ``encoding``.
        unit: What is counted, in the plural.
    """

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._total: int | None = None
        self._done = self._first = 0
        self._note = ""
        self._started = self._logged = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReporter:
        return self

    def start(self, total: int | None, completed: int = 0) -> None:
        """Begin counting.

        Args:
            total: How many there will be; None = unknown.
            completed: How many an earlier run finished; they do not count towards the rate.
        """
        self._total, self._done, self._first = total, completed, completed
        self._started = self._logged = time.monotonic()
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(self._unit),
                TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=total, completed=completed, note="")

    def advance(self, count: int) -> None:
        """Count more as done."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)
            return
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = now
            logger.info("%s", self._line(now - self._started))

    def skip(self, count: int) -> None:
        """Take away work that need not be done here, so that rate and time left stay true."""
        if self._total is not None:
            self._total = max(self._total - count, self._done)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, total=self._total)

    def describe(self, note: str) -> None:
        """Show a short note behind the bar, such as the current loss."""
        self._note = note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=note)

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._first) / max(seconds, 1e-9)
        line = f"{self._title}: {self._done:,}"
        if self._total:
            left = (self._total - self._done) / rate if rate else 0.0
            line += f" of {self._total:,} {self._unit}, {rate:,.2f}/s, {left:,.0f} s left"
        else:
            line += f" {self._unit}, {rate:,.2f}/s"
        return f"{line}  {self._note}".rstrip()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done > self._first:
            logger.info("%s", self._line(time.monotonic() - self._started))

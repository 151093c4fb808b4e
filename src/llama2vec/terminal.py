"""What the terminal shows: printable text in its encoding and width, and progress of long work on stderr."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)
T = TypeVar("T")

# C0 and C1 control characters except tab and newline, bidirectional overrides, and half surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# tqdm, which huggingface_hub draws its download bars with, moves the cursor with these two alone.
_OF_PROGRESS_BARS = re.compile("(\r|\x1b\\[A)")


def printable(text: str) -> str:
    r"""Return text with every control sequence made visible, so that no text can steer the terminal.

    >>> printable("a\x1b[31mb\tc")
    'a\\x1b[31mb\tc'
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable_line(text: str) -> str:
    r"""Return text that stands within one line, such as a file's name, with line breaks and tabs made visible, too.

    >>> printable_line("a\nb\tc\x1b")
    'a\\nb\\tc\\x1b'
    """
    return re.sub("[\t\n\u2028\u2029]", lambda match: match[0].encode("unicode_escape").decode(), printable(text))


def is_first_process() -> bool:
    """Tell whether this process prints the results where several run the command (torchrun)."""
    return (os.environ.get("RANK") or "0") == "0"


class PlainStream:
    """A text stream that passes on printable text only; ``bars`` lets the cursor movements of progress bars through."""

    def __init__(self, stream: TextIO, *, bars: bool = False) -> None:
        self.stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write printable text; return the length that was asked for, as every stream does."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        parts = _OF_PROGRESS_BARS.split(text) if self._bars else [text]
        self.stream.write("".join(part if place % 2 else printable(part) for place, part in enumerate(parts)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        # Without a buffer, or click would write past this class.
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.stream, name)


class PlainFormatter(logging.Formatter):
    """Log lines without control sequences; tracebacks keep their line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as printable text."""
        return printable(super().format(record))


@contextmanager
def plain_terminal() -> Iterator[None]:
    """Put :class:`PlainStream` around stdout and stderr; print ``?`` for what their encoding lacks.

    A stream that the caller closed (``>&-``) becomes the null device.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
            setattr(sys, name, PlainStream(stream or nowhere, bars=name == "stderr"))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def unprotected(stream: TextIO) -> TextIO:
    """Return the stream below a :class:`PlainStream`, for progress bars that draw with control sequences."""
    return stream.stream if isinstance(stream, PlainStream) else stream


# The space inside an interval, and between a number and its unit or sign.
_JOINING = re.compile(r"(?<=\d) (?=%|[shd]\b|.iB)|(?<=[~=<→]) (?=[-+−<\d])| (?=[=<] [-−\d])|(?<=\d,) (?=\S+\])")
_COMMAND = re.compile("`[^`]+`")
_NO_BREAK = "\u00a0"
_LEAST_ROOM = 24


class Lines(Protocol):
    """What is shown in lines that depend on the terminal's width."""

    def lines(self, width: int | None) -> list[str]:
        """Return lines of at most ``width`` columns; None = a full line for each row."""


def display(*parts: str | Lines, err: bool = False) -> None:
    """Print lines and tables on stdout, or on stderr with ``err``, in its width."""
    stream, width = sys.stderr if err else sys.stdout, screen_width(err=err)
    for part in parts:
        for line in [part] if isinstance(part, str) else part.lines(width):
            print("\n".join(wrapped(line, width)), file=stream, flush=True)


def screen_width(*, err: bool = False) -> int | None:
    """Return the columns of the terminal behind stdout or stderr; None where there is none."""
    return shutil.get_terminal_size().columns if (sys.stderr if err else sys.stdout).isatty() else None


def wrapped(text: str, width: int | None) -> list[str]:
    """Return lines that are broken between words, at most ``width`` columns wide; None = as they are.

    A line of several columns, two spaces or more apart, continues below its last one. Intervals, commands in
    backquotes, and numbers with their units stay whole, and so does a word that is too wide, so that it can be copied.

    >>> wrapped("  removed  12  empty: has no text at all in it", 40)
    ['  removed  12  empty: has no text at all', '               in it']
    """
    lines = printable(text).split("\n")
    return lines if width is None else [part for line in lines for part in folded(line, width)]


def folded(line: str, width: int, *, at: str = "") -> Iterator[str]:
    """Yield the parts of one line; a word that is too wide is broken after each ``at``."""
    ends = (found.end() for found in re.finditer(r"\s{2,}(?=\S)", line))
    start = max((end for end in ends if width_of(line[:end]) <= width - _LEAST_ROOM), default=0)
    # A line without columns continues two spaces further, or it would look like two.
    hanging = " " * (width_of(line[:start]) + (0 if line[:start].strip() else 2))
    room, part = width - len(hanging), line[:start]
    joined = _JOINING.sub(_NO_BREAK, line[start:])
    for command in _COMMAND.findall(joined):
        joined = joined.replace(command, command.replace(" ", _NO_BREAK)) if width_of(command) <= room else joined
    for word in re.split("(?<= )", joined):
        # Chinese or Japanese text has no spaces, and may be broken between any two of its characters.
        between = "(?<=.)" if width_of(word) > len(word) else f"(?<={at})" if at else "$"
        for piece in filter(None, re.split(between, word)) if width_of(word.rstrip()) > room else [word]:
            if width_of(part + piece.rstrip()) > width:
                yield from [part.rstrip().replace(_NO_BREAK, " ")] if part.strip() else []
                part = hanging[: max(0, width - width_of(piece.rstrip()))]
            part += piece
    yield part.rstrip().replace(_NO_BREAK, " ")


def width_of(text: str) -> int:
    """Return how many columns a text takes; Chinese characters take two."""
    return sum((east_asian_width(one) in "WF") + (not combining(one)) for one in text)


_LOG_EVERY_SECONDS = 10.0
_LEAST_SECONDS_FOR_A_RATE = 1.0


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, which is in the plural unless the number is 1.

    >>> counted(1, "row"), counted(0, "row"), counted(2400, "judged query", "judged queries")
    ('1 row', '0 rows', '2,400 judged queries')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def first_few(names: Sequence[str]) -> str:
    """Return up to three names, and "…" where there are more.

    >>> first_few(["a", "b", "c", "d"])
    'a, b, c, …'
    """
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def duration(seconds: float) -> str:
    """Return a time in a few characters.

    >>> duration(42.4), duration(754), duration(9000), duration(200_000)
    ('42 s', '12:34', '2:30 h', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02} h"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


class ProgressReporter:
    """Report how far ``title`` is, counted in ``unit`` (one of them) or ``units``; use as a context manager."""

    def __init__(self, title: str, unit: str, units: str = "") -> None:
        self._title, self._unit, self._units = title, unit, units or f"{unit}s"
        self._total: int | None = None
        self._done = self._first = 0
        self._note = ""
        self._started = self._logged = time.monotonic()
        self._warm: tuple[float, int] | None = None  # When the first work was done, and how much
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReporter:
        return self

    def start(self, total: int | None, completed: int = 0) -> None:
        """Begin counting to ``total`` (None = unknown); what an earlier run completed does not count in the rate."""
        self._total, self._done, self._first = total, completed, completed
        self._started = self._logged = time.monotonic()
        self._warm = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[facts]}"))
            console = Console(file=unprotected(sys.stderr))
            self._bar = Progress(*columns, console=console, expand=True)
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=total, completed=completed, facts="")

    def advance(self, count: int) -> None:
        """Count more as done."""
        self._done += count
        now = time.monotonic()
        if self._warm is None and count:
            self._warm = now, self._done
        if self._bar is not None:
            self._redraw(now)
        elif now - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = now
            logger.info("%s", self._line(now))

    def counted(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, each of which counts as done once the next one is asked for."""
        for item in items:
            yield item
            self.advance(1)

    def skip(self, count: int) -> None:
        """Take away work that another process or an earlier run does, so that rate and time left stay true."""
        if self._total is not None:
            self._total = max(self._total - count, self._done)
            self._redraw(time.monotonic())

    def describe(self, note: str) -> None:
        """Show a short note after the numbers, such as the current loss."""
        self._note = printable(note)
        self._redraw(time.monotonic())

    def _redraw(self, now: float) -> None:
        if self._bar is not None and self._task is not None:
            total = f"/{self._total:,}" if self._total is not None else ""
            facts = ", ".join([f"{self._done:,}{total}", *self._pace(now)])
            self._bar.update(
                self._task, completed=self._done, total=self._total, facts=f"{facts} {self._note}".rstrip()
            )

    def _line(self, now: float) -> str:
        # "1 of 2 passages", but "1 passage" and "1 of 1 passage"
        number = counted(self._total or self._done, self._unit, self._units)
        done = f"{self._done:,} of {number}" if self._total else number
        line = f"{self._title}: " + ", ".join([done, *self._pace(now)])
        return f"{line}  {self._note}".rstrip()

    def _pace(self, now: float) -> list[str]:
        """Return the rate, per second or in seconds each where it is slow, and the time left.

        While work is left, the rate leaves out the first part, which also waits for what is done once: a model that is
        loaded or compiled would announce hours.
        """
        rest = self._total - self._done if self._total else 0
        since, first = self._warm if rest > 0 and self._warm else (self._started, self._first)
        rate = (self._done - first) / max(now - since, 1e-9)
        if rate <= 0 or (rest > 0 and now - since < _LEAST_SECONDS_FOR_A_RATE):
            return []
        pace = f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"
        return [pace, f"{duration(rest / rate)} left"] if rest > 0 else [pace]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done > self._first:
            logger.info("%s", self._line(time.monotonic()))

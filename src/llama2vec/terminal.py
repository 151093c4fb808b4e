"""Only printable text in the terminal's own encoding reaches it, even if passages, ids and paths contain more."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

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


class PlainStream(io.TextIOBase):
    """A text stream that passes on printable text only.

    It hides the stream's ``buffer``: click would write past this class otherwise.

    Args:
        stream: Where the text goes.
        bars: Let the cursor movements of progress bars through, for stderr.
    """

    def __init__(self, stream: TextIO, *, bars: bool = False) -> None:
        self.stream, self._bars = stream, bars

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's encoding."""
        return self.stream.encoding

    def write(self, text: str) -> int:
        """Write printable text; return the length that was asked for, as every stream does."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        parts = _OF_PROGRESS_BARS.split(text) if self._bars else [text]
        self.stream.write("".join(part if place % 2 else printable(part) for place, part in enumerate(parts)))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Tell that the stream can be written to."""
        return True


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

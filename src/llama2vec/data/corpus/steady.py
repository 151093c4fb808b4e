"""Whether the inputs of a command are still what they were when it took their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from llama2vec.data.corpus.passages import corpus_fingerprint, read_once
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import InputChangedError

T = TypeVar("T")


class SteadyInputs:
    """Takes fingerprints of inputs before they are read, and finds out afterwards whether one has changed.

    A result carries the fingerprint of its input, so it may not be made from a text that came later. A file is hashed
    again only if its size, its time or its inode is another one.
    """

    def __init__(self) -> None:
        with read_once() as self._hashes:  # those of the caller, where it keeps any
            self._taken: list[tuple[str, Callable[[], str], str]] = []

    def corpus(self, source: str | Path, reading: ReadingSettings | None = None) -> str:
        """Return the fingerprint of a corpus; errors as of :func:`corpus_fingerprint`."""
        return self.take(source, partial(corpus_fingerprint, source, reading))

    def take(self, source: str | Path, fingerprint: Callable[[], str]) -> str:
        """Return a fingerprint; ``source`` is what a message names."""
        with read_once(self._hashes):
            found = fingerprint()
        self._taken.append((str(source), fingerprint, found))
        return found

    def read(self, rows: Iterable[T], sources: Collection[str] | None = None) -> Iterator[T]:
        """Yield rows that are read from inputs, and check these behind the last row, as :meth:`check` does."""
        yield from rows
        self.check(sources)

    def check(self, sources: Collection[str] | None = None) -> None:
        """Raise an InputChangedError if an input (one of ``sources``) no longer has its fingerprint."""
        with read_once(self._hashes):
            for source, fingerprint, found in self._taken:
                if (sources is None or source in sources) and fingerprint() != found:
                    raise InputChangedError(f"{source} changed while it was read; run the same command again")

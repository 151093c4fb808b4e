"""Within one run, a local file is hashed once and a local corpus parsed once, however many stages read it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from llama2vec.records import Passage

logger = logging.getLogger(__name__)

MOST_BYTES = 2**30
"""A larger corpus is not kept in memory: each stage streams it again."""
_BYTES_A_PASSAGE = 250
"""Python's own share of a passage: three strings and the object that holds them."""

_Files = tuple[tuple[str, int, int, int], ...]


class _Memory:
    """What was read: keyed by the files' paths, sizes, times and inodes, so a changed file is read again."""

    def __init__(self) -> None:
        self.hashes: dict[_Files, bytes] = {}
        self.passages: dict[_Files, list[Passage]] = {}
        self.counts: dict[_Files, int] = {}

    def keep(self, files: _Files, rows: Iterable[Passage]) -> Iterator[Passage]:
        """Pass passages on; keep them if they are few enough, and their number in any case."""
        kept: list[Passage] | None = []
        size = count = 0
        for passage in rows:
            count += 1
            if kept is not None:
                kept.append(passage)
                size += len(passage.text) + len(passage.title) + _BYTES_A_PASSAGE
                if size > MOST_BYTES:
                    kept = None
                    logger.info("%s: larger than 1 GiB in memory; each stage reads it again", files[0][0])
            yield passage
        self.counts[files] = count
        if kept is not None:
            self.passages[files] = kept


_memory: ContextVar[_Memory | None] = ContextVar("read_once", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """Keep hashes and passages of local files in memory until the block, or an outer one, ends."""
    token = _memory.set(_memory.get() or _Memory())
    try:
        yield
    finally:
        _memory.reset(token)


def kept_hash(path: Path, read: Callable[[Path], bytes]) -> bytes:
    """Return a file's hash; ``read`` it where it is not known yet."""
    memory = _memory.get()
    if memory is None:
        return read(path)
    files = _identity([path])
    if files not in memory.hashes:
        memory.hashes[files] = read(path)
    return memory.hashes[files]


def kept_passages(paths: Sequence[Path], read: Callable[[], Iterator[Passage]]) -> Iterator[Passage]:
    """Return a corpus' passages; ``read`` them where they are not known yet."""
    memory = _memory.get()
    if memory is None:
        return read()
    files = _identity(paths)
    return iter(memory.passages[files]) if files in memory.passages else memory.keep(files, read())


def kept_count(paths: Sequence[Path]) -> int | None:
    """Return how many passages a corpus has if it was read to its end, else None."""
    memory = _memory.get()
    return memory.counts.get(_identity(paths)) if memory else None


def _identity(paths: Iterable[Path]) -> _Files:
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            # Whoever opens the file reports the problem.
            found.append((str(path), -1, -1, -1))
        else:
            found.append((str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)

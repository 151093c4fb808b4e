"""An engine that keeps its collections in memory, and can be told to fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llama2vec.engines.engine import About, Entry, Hits, Vectors, read_about
from llama2vec.errors import EngineError
from llama2vec.records import Passage


class ClientError(Exception):
    """What the engine's client raises."""


class MemoryEngine:
    """One collection; ``calls`` counts what was asked of it."""

    kind, place = "memory", "the collection in memory"
    is_exclusive, is_open = False, False
    errors: tuple[type[Exception], ...] = (ClientError,)

    def __init__(self, *, has_bm25: bool = False) -> None:
        self.has_bm25 = has_bm25
        self.content: str | None = None
        self.entries: dict[str, Entry] = {}
        self.written: list[int] = []
        self.asked: list[int] = []
        self.states: list[str] = []
        self.fails_after: int | None = None
        self.refused: str | None = None

    def about(self) -> About | None:
        return None if self.content is None else read_about(self.content, self.place)

    def create(self, about: About) -> None:
        self.describe(about)

    def describe(self, about: About) -> None:
        self.content = about.model_dump_json()
        self.states.append(about.mirrors)

    def why_not(self, passage: Passage, words: int) -> str | None:
        return "it is refused" if passage.id == self.refused else None

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        yield [(one, entry.digest) for one, entry in self.entries.items()]

    def upsert(self, entries: Sequence[Entry]) -> None:
        if self.fails_after is not None and len(self.written) == self.fails_after:
            raise ClientError("connection reset by https://me:secret@host")
        self.written.append(len(entries))
        self.entries |= {entry.passage.id: entry for entry in entries}

    def delete(self, ids: Sequence[str]) -> None:
        for one in ids:
            del self.entries[one]

    def finish(self) -> None: ...

    def count(self) -> int:
        return len(self.entries)

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        self.asked.append(len(vectors))
        ids, table = list(self.entries), np.array([entry.vector for entry in self.entries.values()])
        scores = vectors @ table.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return [[(ids[n], float(row[n])) for n in places] for row, places in zip(scores, best, strict=True)]

    def opened(self) -> MemoryEngine:
        """Open it; one that is exclusive is refused to a second client."""
        if self.is_exclusive and self.is_open:
            raise EngineError("the folder is open in another program")
        self.is_open = True
        return self

    def close(self) -> None:
        self.is_open = False

"""An index whose vectors an engine searches: Milvus, Qdrant and others; texts, filters and BM25 stay with the store.

The collection must equal the store, which it says itself; every search asks it, so that no answer mixes two states.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from llama2vec.data.corpus.distinct import id_key
from llama2vec.engines.engine import Engine, Hits, engine_errors
from llama2vec.errors import EngineError
from llama2vec.retrieve.index.exact import ExactIndex, Rows, Scores, are_few, checked_queries, count_allowed
from llama2vec.retrieve.store.reader import Vectors, VectorStore

_DEEPEST = 10_000
"""Most passages that every engine gives for one query; deeper searches compare with all of the store."""
_MOST_QUERIES, _MOST_HITS = 256, 20_000
"""Most that one request asks for: engines refuse long requests, and stop waiting for long answers."""


class EngineIndex:
    """Ask an engine for the nearest passages."""

    kind = "engine"

    def __init__(self, store: VectorStore, engine: Engine, store_sha256: str) -> None:
        """Use an engine that is open; it is closed with the index.

        Raises:
            EngineError: The collection does not exist, or does not equal the store.
        """
        self.store, self._engine, self._sha256 = store, engine, store_sha256
        self._closing = weakref.finalize(self, engine.close)
        self._check()

    def let_go(self) -> None:
        """Close an engine that lets in no second client, so that the next state of the index can be opened."""
        if self._engine.is_exclusive:
            self._closing()

    def search(self, vectors: Vectors, depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """See :meth:`ExactIndex.search`; among few allowed rows, and very deep, the search is exact.

        Raises:
            EngineError: The engine does not answer, or the collection has changed.
        """
        count, queries = count_allowed(self.store, allowed), checked_queries(vectors, depth, self.store)
        depth = min(depth, max(1, count))
        reach = math.ceil(depth * len(self.store) / max(1, count))
        if are_few(self.store, allowed) or reach > _DEEPEST or not len(queries):
            return ExactIndex(self.store).search(queries, depth, allowed)
        self._check()
        size, found = min(_MOST_QUERIES, max(1, _MOST_HITS // reach)), list[Hits]()
        with engine_errors(self._engine):
            for begin in range(0, len(queries), size):
                found += self._engine.search(queries[begin : begin + size], reach)
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), depth), -1, dtype=np.int64)
        for place, hits in enumerate(found):
            known, values = self._rows([one for one, _ in hits]), np.array([score for _, score in hits], np.float32)
            if allowed is not None:
                kept = np.isin(known, allowed)
                known, values = known[kept], values[kept]
            order = np.lexsort((known, -values))[:depth]
            scores[place, : len(order)], rows[place, : len(order)] = values[order], known[order]
        lacking = np.flatnonzero(rows[:, -1] < 0)
        if len(lacking):  # Few of them are allowed, or the engine gives no more
            scores[lacking], rows[lacking] = ExactIndex(self.store).search(queries[lacking], depth, allowed)
        return scores, rows

    def _check(self) -> None:
        """Raise an error unless the collection equals the store."""
        with engine_errors(self._engine):
            about = self._engine.about()
        if about is None or about.mirrors != self._sha256:
            state = "does not exist" if about is None else "holds another state of the passages"
            raise EngineError(f"{self._engine.place} {state}; export {self.store.path} to it again")

    def _rows(self, ids: Sequence[str]) -> Rows:
        """Return the rows [n] of passages."""
        if not ids:
            return np.empty(0, dtype=np.int64)
        keys, rows = self._keys_and_rows
        asked = np.array([id_key(one) for one in ids], dtype=np.uint64)
        places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        if (keys[places] != asked).any():
            unknown = ids[int(np.flatnonzero(keys[places] != asked)[0])]
            raise EngineError(f"{self._engine.place} holds {unknown!a}, which {self.store.path} lacks; export again")
        return rows[places]

    @cached_property
    def _keys_and_rows(self) -> tuple[np.ndarray, Rows]:
        """Hashes of all ids [N], ascending, and their rows: 16 bytes a passage."""
        keys = np.fromiter((id_key(one) for one in self.store.ids), dtype=np.uint64, count=len(self.store))
        rows = np.argsort(keys, kind="stable")
        return keys[rows], rows

"""The nearest of many vectors, exactly and block by block, so that memory does not grow with the corpus.

Products are one matrix multiplication per block. FAISS's heaps merge a block's scores into the best so far where FAISS
is installed; elsewhere NumPy does the same, more slowly. Both keep the lower row where scores are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

faiss: Any
try:
    import faiss
except ImportError:
    faiss = None

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_BLOCK_ROWS = 2048
_BLOCK_FLOATS = 1 << 21
"""Most scores at once: 8 MiB in float32, whatever the number of queries."""
_HEAPS_FROM = 2
"""Vectors per wanted result from which heaps are quicker than sorting (benchmarks/exact_search.py)."""
_LAST_ROW = (1 << 32) - 1
_EMPTY = np.iinfo(np.int64).min


def best_rows(scores: Scores, depth: int) -> Rows:
    """Return the rows [K] of the ``depth`` highest scores [N], best first; equal scores in row order.

    >>> best_rows(np.array([1, 3, 2, 3], dtype=np.float32), 3).tolist()
    [1, 3, 2]
    """
    candidates = np.arange(len(scores))
    if len(scores) > depth:
        lowest = np.partition(scores, -depth)[-depth]
        candidates = np.flatnonzero(scores >= lowest)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:depth]]


class Nearest:
    """The best of all vectors seen so far, for each query.

    Args:
        queries: [Q, D] float32.
        depth: K, vectors per query.
    """

    def __init__(self, queries: Scores, depth: int) -> None:
        self._queries, self._depth, self._seen = queries, depth, 0
        self._best: _Keys | _Heaps = _Keys(len(queries), depth)
        self._scores = np.empty(0, dtype=np.float32)

    def add(self, vectors: npt.NDArray[np.floating], first_row: int) -> None:
        """Compare all queries with the next vectors.

        Args:
            vectors: [N, D]; calls come in ascending order of their rows.
            first_row: Row of the first vector.
        """
        for begin in range(0, len(vectors), _BLOCK_ROWS):
            if faiss and isinstance(self._best, _Keys) and self._seen >= _HEAPS_FROM * self._depth:
                self._best = _Heaps(*self._best.sorted())
            block = np.asarray(vectors[begin : begin + _BLOCK_ROWS], dtype=np.float32)
            rows = np.arange(first_row + begin, first_row + begin + len(block))
            for part in self._parts(len(block)):
                self._best.merge(part, self._products(self._queries[part], block), rows)
            self._seen += len(block)

    def best(self) -> tuple[Scores, Rows]:
        """Return [Q, K] scores and rows, best first, equal scores in row order; -inf and -1 where there are fewer."""
        return self._best.sorted()

    def _parts(self, rows: int) -> Iterator[slice]:
        """Split the queries so that no part has more scores than a block holds."""
        step = max(1, _BLOCK_FLOATS // rows)
        for begin in range(0, len(self._queries), step):
            yield slice(begin, min(begin + step, len(self._queries)))

    def _products(self, queries: Scores, block: Scores) -> Scores:
        """Return [q, n] products in a buffer that is used again, because fresh pages are slow to get."""
        size = len(queries) * len(block)
        if self._scores.size < size:
            self._scores = np.empty(size, dtype=np.float32)
        return np.matmul(queries, block.T, out=self._scores[:size].reshape(len(queries), len(block)))


class _Keys:
    """The best K of each query as whole numbers, one per score and row; quickest for the first vectors."""

    def __init__(self, queries: int, depth: int) -> None:
        self._keys = np.full((queries, depth), _EMPTY)

    def merge(self, part: slice, scores: Scores, rows: Rows) -> None:
        """Merge the scores [q, n] that a part of the queries has for these rows [n]."""
        candidates = np.concatenate([self._keys[part], _keys(scores, rows)], axis=1)
        self._keys[part] = np.partition(candidates, len(rows), axis=1)[:, len(rows) :]

    def sorted(self) -> tuple[Scores, Rows]:
        """Return [Q, K] scores and rows, best first."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        ordered = (keys >> 32).astype(np.int32)
        scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)
        is_empty = keys == _EMPTY
        return np.where(is_empty, np.float32(-np.inf), scores), np.where(is_empty, -1, _LAST_ROW - (keys & _LAST_ROW))


class _Heaps:
    """The best K of each query in FAISS's heaps, which are quickest once few scores enter.

    A heap gives up the lowest label among equal scores, so labels are -2 - row; -1 is FAISS's own label for "empty".
    """

    def __init__(self, scores: Scores, rows: Rows) -> None:
        self._found = faiss.ResultHeap(*scores.shape, keep_max=True)
        # Worst first: a sorted list is a heap.
        self._found.D[:], self._found.I[:] = scores[:, ::-1], np.where(rows < 0, -1, -2 - rows)[:, ::-1]

    def merge(self, part: slice, scores: Scores, rows: Rows) -> None:
        """Merge the scores [q, n] that a part of the queries has for these rows [n]."""
        labels = -2 - rows
        self._found.heaps.addn_with_ids(
            len(rows), faiss.swig_ptr(scores), faiss.swig_ptr(labels), 0, part.start, len(scores)
        )

    def sorted(self) -> tuple[Scores, Rows]:
        """Return [Q, K] scores and rows, best first; call it once."""
        self._found.finalize()
        scores, labels = self._found.D, self._found.I
        return np.where(labels == -1, np.float32(-np.inf), scores), np.where(labels == -1, -1, -2 - labels)


def _keys(scores: Scores, rows: Rows) -> npt.NDArray[np.int64]:
    """Return whole numbers in the order of the scores, the lower row first among equal ones.

    >>> _keys(np.float32([0.5, -2.0, -0.0, 0.0, np.nan]), np.array([7, 8, 9, 10, 11])).argsort()[::-1].tolist()
    [0, 2, 3, 1, 4]
    """
    # The bits of a float are in its order when read as an integer, but for negative ones; adding 0 leaves one zero.
    bits = (scores + np.float32(0)).view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    return np.where(np.isfinite(scores), (ordered << 32) | (_LAST_ROW - rows), _EMPTY)

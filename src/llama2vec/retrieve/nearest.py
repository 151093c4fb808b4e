"""The nearest of many vectors, exactly and block by block.

A score enters a query's list where it beats the worst of the query's best so far; the list is cut to the best only when
it is full, and sorted at the end. Of N vectors about K·ln(N/K) ever enter, so choosing costs little beside the
products, however many vectors there are. Score and row stand in one whole number, which orders equal scores by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.errors import StoreError

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.int64]

_ROOM = 2
"""A list has room for so many times the wanted depth."""
_BLOCK_FLOATS = 1 << 22
"""Numbers in one block of vectors or of scores: 16 MiB in float32, whatever the number of vectors."""
_CHOSEN_PARTS = 16
"""A block's keys take several times the memory of its scores: so many parts are made one after the other."""
_EMPTY = np.iinfo(np.int64).min
_LAST_ROW = (1 << 32) - 1


def block_rows(width: int) -> int:
    """Return how many vectors of this width make one block."""
    return max(1, _BLOCK_FLOATS // max(width, 1))


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
    """The best of all vectors seen so far, for each of some queries.

    Args:
        queries: [Q, D] float32.
        depth: K, vectors per query.
    """

    def __init__(self, queries: npt.NDArray[np.float32], depth: int) -> None:
        self.queries, self.depth = queries, depth
        self._lists = np.full((len(queries), _ROOM * depth), _EMPTY)
        self._filled = np.zeros(len(queries), dtype=np.int64)
        self._worst = np.full(len(queries), -np.inf, dtype=np.float32)
        self._scores = np.empty(0, dtype=np.float32)

    def add(self, vectors: npt.NDArray[np.floating], first_row: int) -> None:
        """Compare all queries with the next vectors.

        Args:
            vectors: [n, D]; blocks come in ascending order of their rows.
            first_row: Row of the first of them.

        Raises:
            StoreError: More vectors than a key can count.
        """
        if first_row + len(vectors) > _LAST_ROW:
            raise StoreError(f"exact search counts at most {_LAST_ROW:,} vectors; use faiss-ivfpq, or several stores")
        block = np.asarray(vectors, dtype=np.float32)
        for part in self._parts(len(block)):
            self._enter(part, self._products(self.queries[part], block), first_row)

    def best(self) -> tuple[Scores, Rows]:
        """Return [Q, K] scores and rows, best first, equal scores in row order; -inf and -1 where there are fewer."""
        scores = np.empty((len(self.queries), self.depth), dtype=np.float32)
        rows = np.empty((len(self.queries), self.depth), dtype=np.int64)
        for part in self._parts():
            keys = np.sort(self._lists[part], axis=1)[:, : -self.depth - 1 : -1]
            scores[part] = _scores_of(keys)
            rows[part] = np.where(keys == _EMPTY, -1, _LAST_ROW - (keys & _LAST_ROW))
        return scores, rows

    def _parts(self, scores_each: int = 0) -> Iterator[slice]:
        """Split the queries so that neither a part's scores nor its lists are larger than a block."""
        step = max(1, _BLOCK_FLOATS // max(scores_each, _ROOM * self.depth))
        for begin in range(0, len(self.queries), step):
            yield slice(begin, min(begin + step, len(self.queries)))

    def _products(self, queries: Scores, block: Scores) -> Scores:
        """Return [q, n] products, in memory that is used again: new pages cost as much as some of the products."""
        size = len(queries) * len(block)
        if self._scores.size < size:
            self._scores = np.empty(size, dtype=np.float32)
        return np.matmul(queries, block.T, out=self._scores[:size].reshape(len(queries), len(block)))

    def _enter(self, part: slice, scores: Scores, first_row: int) -> None:
        """Put the scores [q, n] that beat the worst so far into the lists. Equal scores lose: their rows are higher."""
        lists, filled, worst = self._lists[part], self._filled[part], self._worst[part]
        better = scores > worst[:, None]
        if scores.shape[1] > self.depth:
            # Before a list was cut, everything beats its worst.
            self._choose(part, worst == -np.inf, better, scores, first_row)
        places, counts = _places(better)
        crowded = counts > lists.shape[1] - self.depth
        if crowded.any():
            self._choose(part, crowded, better, scores, first_row)
            places, counts = _places(better)
        full = filled + counts > lists.shape[1]
        if full.any():
            self._cut(part, full, lists[full])
        query = places // scores.shape[1]
        # A candidate's place is behind its query's earlier ones.
        base = np.arange(len(scores)) * lists.shape[1] + filled - (counts.cumsum() - counts)
        rows = places + (first_row - query * scores.shape[1])
        lists.reshape(-1)[np.arange(len(places)) + base[query]] = _keys(scores.reshape(-1)[places], rows)
        filled += counts
        unlimited = (worst == -np.inf) & (filled >= self.depth)
        if unlimited.any():
            self._cut(part, unlimited, lists[unlimited])

    def _choose(
        self, part: slice, which: npt.NDArray[np.bool_], better: npt.NDArray[np.bool_], scores: Scores, first_row: int
    ) -> None:
        """Cut lists and new scores together where there are more new ones than a list has room for.

        ``better`` is false afterwards where that was done.
        """
        chosen = np.flatnonzero(which)
        if not len(chosen):
            return
        rows = np.arange(first_row, first_row + scores.shape[1])
        for queries in np.array_split(chosen, min(_CHOSEN_PARTS, len(chosen))):
            keys = np.where(better[queries], _keys(scores[queries], rows), _EMPTY)
            self._cut(part, queries, np.concatenate([self._lists[part][queries], keys], axis=1))
        better[chosen] = False

    def _cut(self, part: slice, which: npt.NDArray[Any], keys: Keys) -> None:
        """Keep the best K of these keys, at least K of each query, as the lists of the chosen queries of a part."""
        kept = np.partition(keys, -self.depth, axis=1)[:, -self.depth :]
        lists = np.full((len(kept), self._lists.shape[1]), _EMPTY)
        lists[:, : self.depth] = kept
        self._lists[part][which] = lists
        self._filled[part][which] = self.depth
        self._worst[part][which] = _scores_of(kept.min(axis=1))


def _keys(scores: Scores, rows: Rows) -> Keys:
    """Return whole numbers in the order of the scores, the lower row first among equal ones.

    >>> _keys(np.float32([0.5, -2.0, -0.0, 0.0]), np.array([7, 8, 9, 10])).argsort()[::-1].tolist()
    [0, 2, 3, 1]
    """
    # The bits of a float, read as a whole number, are in its order, but for those below zero; there is only one zero.
    bits = (scores + np.float32(0)).view(np.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.astype(np.int64) << 32) | (_LAST_ROW - rows)


def _scores_of(keys: Keys) -> Scores:
    """Return the scores of keys; -inf where a list is empty.

    >>> _scores_of(_keys(np.float32([0.5, -2.0]), np.array([7, 8]))).tolist()
    [0.5, -2.0]
    """
    ordered = (keys >> 32).astype(np.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)
    return np.where(keys == _EMPTY, np.float32(-np.inf), scores)


def _places(mask: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Return where [q, n] is true, as places in the flat mask in ascending order, and how often in each row."""
    places = np.flatnonzero(mask)
    bounds = np.searchsorted(places, np.arange(len(mask) + 1) * mask.shape[1])
    return places, np.diff(bounds)

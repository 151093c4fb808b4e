"""Find the nearest vectors of a store by comparing all of them.

Similarity is the inner product, which is the cosine because a store's vectors are normalized. Exact search multiplies
block by block, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llama2vec.errors import ConfigError, DataError, StoreError, one_line
from llama2vec.records import is_whole_number
from llama2vec.retrieve.store.reader import Vectors, VectorStore, check_vectors

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_BLOCK_ROWS, _BLOCK_QUERIES = 16384, 1024
"""Vectors and queries that are multiplied at once: their scores take 64 MiB."""
_ROOM = 8
"""A query's best are chosen when it has collected half so many times the wanted number."""
_SAMPLE, _IN_SAMPLE = 1 << 12, 10
"""Most vectors of the sample that floors come from, and how many of the results it should hold."""
_FEW_ROWS, _FEW_OF = 20_000, 20
"""Allowed rows that are compared one by one: at most so many, or one in so many; others would search far for them."""
_LAST_ROW = (1 << 32) - 1
_EMPTY = np.iinfo(np.int64).min


class Index(Protocol):
    """The vectors of a store, ready to be searched."""

    store: VectorStore
    kind: str

    def search(self, vectors: Vectors, depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """See :meth:`ExactIndex.search`."""


class ExactIndex:
    """Compare every query with every vector, block by block; memory does not grow with the corpus."""

    kind = "exact"

    def __init__(self, store: VectorStore) -> None:
        self.store = store

    def search(self, vectors: Vectors, depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Return the nearest passages of each query, best first.

        Args:
            vectors: [Q, D] float32 queries.
            depth: Passages per query.
            allowed: Rows [N] to search among, ascending; None = all.

        Returns:
            [Q, K] float32 scores and [Q, K] int64 rows of the store, where K is the depth or, if that is smaller, the
            number of passages to search among. Equal scores are in row order. An approximate index that finds fewer
            than K passages fills the rest with score -inf and row -1.
        """
        queries, depth = checked_queries(vectors, depth, self.store), min(depth, count_allowed(self.store, allowed))
        scores = np.empty((len(queries), depth), dtype=np.float32)
        rows = np.empty((len(queries), depth), dtype=np.int64)
        for begin in range(0, len(queries) if depth else 0, _BLOCK_QUERIES):
            part = slice(begin, begin + _BLOCK_QUERIES)
            floors = _floors(queries[part], depth, self.store, allowed)
            scores[part], rows[part] = self._nearest(queries[part], depth, floors, allowed)
            missed = begin + np.flatnonzero(rows[part, -1] < 0)
            if len(missed):
                scores[missed], rows[missed] = self._nearest(queries[missed], depth, None, allowed)
        return scores, rows

    def _nearest(self, queries: Scores, depth: int, floors: Scores | None, allowed: Rows | None) -> tuple[Scores, Rows]:
        found = Nearest(queries, depth, floors)
        for first_row, shard in self.store.shards():
            rows = None
            if allowed is not None:
                begin, end = np.searchsorted(allowed, [first_row, first_row + len(shard)])
                rows = allowed[begin:end]
            found.add(shard, first_row, rows)
        return found.best()


def count_allowed(store: VectorStore, allowed: Rows | None) -> int:
    """Return among how many passages is searched."""
    return len(store) if allowed is None else len(allowed)


def are_few(store: VectorStore, allowed: Rows | None) -> bool:
    """Tell whether the allowed rows are so few that an index does better to compare them one by one."""
    return allowed is not None and len(allowed) <= max(_FEW_ROWS, len(store) // _FEW_OF)


def check_depth(depth: object) -> None:
    """Raise a ConfigError for anything but a whole number of passages above 0."""
    if not is_whole_number(depth):
        raise ConfigError(f"the depth must be a whole number, not {depth!r}")
    if depth < 1:
        raise ConfigError(f"the depth must be at least 1, not {depth}")


def checked_queries(vectors: Vectors, depth: int, store: VectorStore) -> Vectors:
    """Return queries [Q, D] in one piece; raise an error if a store cannot be searched for them."""
    check_depth(depth)
    store.check_vectors()
    how = "give vectors [Q, D], as encode_queries returns them for a list of queries"
    try:
        vectors = np.asarray(vectors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the queries cannot be read as an array ({one_line(error)}); {how}") from None
    if vectors.dtype.kind not in "fiu":
        raise DataError(f"the queries are an array of {vectors.dtype.name}; {how}")
    if vectors.ndim != 2 or vectors.shape[1] != store.dimension:
        raise StoreError(
            f"queries of shape {vectors.shape} do not fit the vectors of {store.path}, which have width "
            f"{store.dimension}; encode them with the model that made the store"
        )
    # Comparisons with NaN are false, so such a query would silently return no hits.
    check_vectors(vectors, lambda row: f"the vector of query {row + 1} of {len(vectors)}")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Return the first ``dimensions`` of each vector, at unit length again (Matryoshka, arXiv 2205.13147).

    None = all.

    >>> shortened(np.array([[0.6, 0.0, 0.8]], dtype=np.float32), 2).tolist()
    [[1.0, 0.0]]
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    unit: Vectors = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit


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
    """The best ``depth`` of all vectors seen so far, for each of the queries [Q, D].

    Scores above a query's floor are collected; when a query has several times as many as it wants, only the best are
    kept, and the worst of them becomes the floor. Few scores pass it, so merging is cheap next to the products.
    """

    def __init__(self, queries: Scores, depth: int, floors: Scores | None = None) -> None:
        self._queries, self._depth = queries, depth
        self._floors = np.full(len(queries), -np.inf, dtype=np.float32) if floors is None else floors.copy()
        self._counts = np.zeros(len(queries), dtype=np.int64)
        self._table = np.full((len(queries), _ROOM * depth), _EMPTY)  # keys collected for each query, empty ones last
        # Used again for every block, because fresh pages are slow to get.
        self._scores = np.empty(len(queries) * _BLOCK_ROWS, dtype=np.float32)
        self._above = np.empty(len(queries) * _BLOCK_ROWS, dtype=np.bool_)

    def add(self, vectors: npt.NDArray[np.floating], first_row: int, rows: Rows | None = None) -> None:
        """Compare all queries with the next vectors [N, D]; calls come in ascending order of rows.

        ``rows`` [n] = compare only with these rows, ascending; None = with all from ``first_row`` on.
        """
        rows = np.arange(first_row, first_row + len(vectors)) if rows is None else rows
        for begin in range(0, len(rows), _BLOCK_ROWS):
            numbers = rows[begin : begin + _BLOCK_ROWS]
            block = np.asarray(_taken(vectors, numbers - first_row), dtype=np.float32)
            size, shape = len(self._queries) * len(block), (len(self._queries), len(block))
            scores, above = self._scores[:size], self._above[:size]
            np.matmul(self._queries, block.T, out=scores.reshape(shape))
            np.greater(scores.reshape(shape), self._floors[:, None], out=above.reshape(shape))
            places = np.flatnonzero(above)
            query, column = np.divmod(places, len(block))
            new = np.bincount(query, minlength=len(self._queries))
            lacking = (self._counts + new).max(initial=0) - self._table.shape[1]
            if lacking > 0:
                self._table = np.pad(self._table, ((0, 0), (0, lacking)), constant_values=_EMPTY)
            # A score's place is after those that its query has collected, in this block or before.
            place = (self._counts + new - new.cumsum())[query] + np.arange(len(query))
            self._table[query, place] = _keys(scores[places], numbers[column])
            self._counts += new
            if self._counts.max(initial=0) > _ROOM * self._depth // 2:
                self._cut()

    def best(self) -> tuple[Scores, Rows]:
        """Return [Q, K] scores and rows, best first, equal scores in row order; -inf and -1 where there are fewer."""
        keys = self._best_keys()
        return _scores_of(keys), np.where(keys == _EMPTY, -1, _LAST_ROW - (keys & _LAST_ROW))

    def _best_keys(self) -> Rows:
        """Return the keys [Q, K] of the best of each query, best first."""
        table = np.partition(self._table[:, : max(self._depth, self._counts.max(initial=0))], -self._depth, axis=1)
        return np.sort(table[:, -self._depth :], axis=1)[:, ::-1]

    def _cut(self) -> None:
        """Keep the best of each query, and let the worst of them become the floor."""
        best = self._best_keys()
        self._table = np.full((len(best), _ROOM * self._depth), _EMPTY)
        self._table[:, : self._depth] = best
        is_full = best[:, -1] != _EMPTY
        self._floors[is_full] = _scores_of(best[is_full, -1])
        self._counts = (best != _EMPTY).sum(axis=1)


def _taken(vectors: npt.NDArray[np.floating], places: Rows) -> npt.NDArray[np.floating]:
    """Return the vectors at ascending places, without a copy where they follow each other."""
    first, last = int(places[0]), int(places[-1])
    return vectors[first : last + 1] if last - first + 1 == len(places) else vectors[places]


def _floors(queries: Scores, depth: int, store: VectorStore, allowed: Rows | None) -> Scores | None:
    """Estimate from a sample a score [Q] that more than ``depth`` vectors exceed; None if that would not help."""
    count = count_allowed(store, allowed)
    size = min(_SAMPLE, _IN_SAMPLE * count // depth, count // 4)
    if size < _IN_SAMPLE or 2 * depth > count:
        return None
    places = np.linspace(0, count - 1, size).astype(np.int64)
    sample = store.vectors(places if allowed is None else allowed[places])
    expected = depth * size / count
    place = max(0, size - math.ceil(expected + 4 * math.sqrt(expected)) - 1)
    return np.partition(queries @ sample.T, place, axis=1)[:, place]


def _scores_of(keys: Rows) -> Scores:
    """Return the scores of keys; -inf for an empty one.

    >>> _scores_of(_keys(np.float32([0.5, -2.0]), np.array([7, 8]))).tolist()
    [0.5, -2.0]
    """
    ordered = (keys >> 32).astype(np.int32)
    return np.where(keys == _EMPTY, np.float32(-np.inf), (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32))


def _keys(scores: Scores, rows: Rows) -> npt.NDArray[np.int64]:
    """Return whole numbers in the order of the scores, the lower row first among equal ones.

    >>> _keys(np.float32([0.5, -2.0, -0.0, 0.0, np.nan]), np.array([7, 8, 9, 10, 11])).argsort()[::-1].tolist()
    [0, 2, 3, 1, 4]
    """
    # The bits of a float are in its order when read as an integer, but for negative ones; adding 0 leaves one zero.
    bits = (scores + np.float32(0)).view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    return np.where(np.isfinite(scores), (ordered << 32) | (_LAST_ROW - rows), _EMPTY)

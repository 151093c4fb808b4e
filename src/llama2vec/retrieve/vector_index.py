"""Find the nearest vectors of a store: exactly, or approximately through FAISS.

Similarity is the inner product, which is the cosine because a store's vectors are normalized. Exact search multiplies
block by block, so that memory does not grow with the corpus. FAISS's heaps merge a block's scores into the best so far
where FAISS is installed; elsewhere NumPy does the same, more slowly. Both keep the lower row where scores are equal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.errors import ConfigError, MissingDependencyError, StoreError
from llama2vec.retrieve.settings import AnnSettings
from llama2vec.retrieve.store import Vectors, VectorStore
from llama2vec.terminal import ProgressReporter

faiss: Any
try:
    import faiss
except ImportError:
    faiss = None

logger = logging.getLogger(__name__)

_TRAIN_PER_CENTROID = 39
"""Training vectors per centroid below which FAISS warns (ClusteringParameters.min_points_per_centroid)."""
_PQ_BITS = 8
_ADDED_VECTORS = 8192

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_BLOCK_ROWS = 2048
_BLOCK_FLOATS = 1 << 21
"""Most scores at once: 8 MiB in float32, whatever the number of queries."""
_HEAPS_FROM = 2
"""Vectors per wanted result from which heaps are quicker than sorting (benchmarks/exact_search.py)."""
_LAST_ROW = (1 << 32) - 1
_EMPTY = np.iinfo(np.int64).min


class ExactIndex:
    """Compare every query with every vector, block by block; memory does not grow with the corpus."""

    kind = "exact"

    def __init__(self, store: VectorStore) -> None:
        self.store = store

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """Return the nearest passages of each query, best first.

        Args:
            vectors: [Q, D] float32 queries.
            depth: Passages per query.

        Returns:
            [Q, K] float32 scores and [Q, K] int64 rows of the store, where K is the depth or, if that is smaller, the
            number of passages. Equal scores are in row order. An approximate index that finds fewer than K passages
            fills the rest with score -inf and row -1.
        """
        found = Nearest(_checked_queries(vectors, depth, self.store), min(depth, len(self.store)))
        for first_row, shard in self.store.shards():
            found.add(shard, first_row)
        return found.best()


class FaissIndex:
    """Search an index that FAISS holds in memory."""

    def __init__(self, store: VectorStore, kind: str, faiss_index: Any, settings: AnnSettings) -> None:
        self.store = store
        self.kind = kind
        self.settings = settings
        self._faiss_index = faiss_index

    @classmethod
    def read(cls, store: VectorStore, kind: str, file: Path, settings: AnnSettings) -> FaissIndex:
        """Open an index file of FAISS."""
        try:
            return cls(store, kind, import_faiss().read_index(str(file)), settings)
        except RuntimeError as error:
            raise StoreError(f"{file} cannot be read by FAISS; build the index again") from error

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """See :meth:`ExactIndex.search`."""
        queries = _checked_queries(vectors, depth, self.store)
        depth = min(depth, len(self.store))
        if not len(queries):
            return np.empty((0, depth), dtype=np.float32), np.empty((0, depth), dtype=np.int64)
        parameters = None
        if self.kind == "faiss-hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.settings.hnsw_ef_search, depth))
        elif self.kind == "faiss-ivfpq":
            parameters = faiss.SearchParametersIVF(nprobe=self.settings.ivf_nprobe)
        scores, rows = self._faiss_index.search(queries, depth, params=parameters)
        scores = np.where(rows < 0, np.float32(-np.inf), scores)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


Index = ExactIndex | FaissIndex
"""The vectors of a store, ready to be searched."""


def write_faiss_index(store: VectorStore, kind: str, settings: AnnSettings, file: Path) -> None:
    """Build a FAISS index of a store's vectors and write it to a file."""
    index = _new_faiss_index(store, kind, settings)
    with ProgressReporter("indexing", "passages") as progress:
        progress.start(len(store))
        for _, shard in store.shards():
            for begin in range(0, len(shard), _ADDED_VECTORS):
                vectors = np.ascontiguousarray(shard[begin : begin + _ADDED_VECTORS], dtype=np.float32)
                index.add(vectors)
                progress.advance(len(vectors))
    try:
        faiss.write_index(index, str(file))
    except RuntimeError as error:  # what FAISS raises when the disk is full
        raise OSError(None, str(error).splitlines()[0], str(file)) from error


def import_faiss() -> Any:
    """Return the faiss module, or raise a :class:`MissingDependencyError`."""
    if faiss is None:
        raise MissingDependencyError("FAISS is not installed; run: pip install 'llama2vec[search]'")
    return faiss


def _checked_queries(vectors: Vectors, depth: int, store: VectorStore) -> Vectors:
    if depth < 1:
        raise ConfigError(f"the depth must be at least 1, not {depth}")
    if vectors.ndim != 2 or vectors.shape[1] != store.dimension:
        raise StoreError(
            f"queries of shape {vectors.shape} do not fit the vectors of {store.path}, which have width "
            f"{store.dimension}; encode them with the model that made the store"
        )
    # Comparisons with NaN are false, so such a query would silently return no hits.
    faulty = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(faulty):
        raise StoreError(
            f"the vector of query {faulty[0] + 1} of {len(vectors)} is not finite; "
            "check the model, or encode in float32"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _new_faiss_index(store: VectorStore, kind: str, settings: AnnSettings) -> Any:
    """Return an empty FAISS index, trained if its kind needs that."""
    if kind == "faiss-flat":
        return faiss.IndexFlatIP(store.dimension)
    if kind == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(store.dimension, settings.hnsw_m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.hnsw_ef_construction
        return index
    nlist, pq_m, sample = _ivfpq_plan(store, settings)
    logger.info("training %d cells and %d codes on %d of %d passages", nlist, pq_m, sample, len(store))
    rows = np.random.default_rng(settings.seed).choice(len(store), size=sample, replace=False)
    cells = faiss.IndexFlatIP(store.dimension)
    index = faiss.IndexIVFPQ(cells, store.dimension, nlist, pq_m, _PQ_BITS, faiss.METRIC_INNER_PRODUCT)
    index.train(store.vectors(np.sort(rows)))
    return index


def _ivfpq_plan(store: VectorStore, settings: AnnSettings) -> tuple[int, int, int]:
    """Return the number of cells, the bytes per vector and the size of the training sample."""
    passages, width = len(store), store.dimension
    most_cells = max(1, passages // _TRAIN_PER_CENTROID)
    nlist = settings.ivf_nlist or min(round(4 * passages**0.5), most_cells)
    centroids = max(nlist, 2**_PQ_BITS)
    needed = _TRAIN_PER_CENTROID * centroids
    sample = min(passages, settings.training_passages or 64 * centroids)
    if sample < needed:
        raise StoreError(
            f"{store.path}: faiss-ivfpq with {nlist} cells needs {needed:,} passages to train on and has {sample:,}; "
            "use exact or faiss-hnsw"
        )
    pq_m = settings.pq_m or max(divisor for divisor in range(1, min(width, 64) + 1) if width % divisor == 0)
    if width % pq_m:
        raise ConfigError(f"pq_m = {pq_m} does not divide the width {width} of {store.path}; choose a divisor")
    return nlist, pq_m, sample


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
    """The best ``depth`` of all vectors seen so far, for each of the queries [Q, D]."""

    def __init__(self, queries: Scores, depth: int) -> None:
        self._queries, self._depth, self._seen = queries, depth, 0
        self._best: _Keys | _Heaps = _Keys(len(queries), depth)
        self._scores = np.empty(0, dtype=np.float32)

    def add(self, vectors: npt.NDArray[np.floating], first_row: int) -> None:
        """Compare all queries with the next vectors [N, D]; calls come in ascending order of rows."""
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

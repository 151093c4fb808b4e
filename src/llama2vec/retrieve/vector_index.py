"""Find the nearest vectors of a store: exactly, or approximately through FAISS.

Similarity is the inner product, which is the cosine because a store's vectors are normalized.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llama2vec.errors import ConfigError, MissingDependencyError, StoreError
from llama2vec.progress import ProgressReporter
from llama2vec.retrieve.nearest import Nearest, Rows, Scores
from llama2vec.retrieve.settings import AnnSettings
from llama2vec.retrieve.store import Vectors, VectorStore

logger = logging.getLogger(__name__)

_TRAIN_PER_CENTROID = 39
"""Training vectors per centroid below which FAISS warns (ClusteringParameters.min_points_per_centroid)."""
_PQ_BITS = 8
_ADDED_VECTORS = 8192


class Index(Protocol):
    """The vectors of a store, ready to be searched."""

    @property
    def kind(self) -> str:
        """How it searches."""
        ...

    @property
    def store(self) -> VectorStore:
        """The vectors and passages it finds."""
        ...

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
        ...


class ExactIndex:
    """Compare every query with every vector, block by block; memory does not grow with the corpus."""

    kind = "exact"

    def __init__(self, store: VectorStore) -> None:
        self.store = store

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """See :meth:`Index.search`."""
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
        """Open an index file of FAISS.

        Raises:
            StoreError: FAISS cannot read the file.
        """
        try:
            return cls(store, kind, import_faiss().read_index(str(file)), settings)
        except RuntimeError as error:
            raise StoreError(f"{file} cannot be read by FAISS; build the index again") from error

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """See :meth:`Index.search`."""
        queries = _checked_queries(vectors, depth, self.store)
        depth = min(depth, len(self.store))
        if not len(queries):
            return np.empty((0, depth), dtype=np.float32), np.empty((0, depth), dtype=np.int64)
        faiss = import_faiss()
        parameters = None
        if self.kind == "faiss-hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.settings.hnsw_ef_search, depth))
        elif self.kind == "faiss-ivfpq":
            parameters = faiss.SearchParametersIVF(nprobe=self.settings.ivf_nprobe)
        scores, rows = self._faiss_index.search(queries, depth, params=parameters)
        scores = np.where(rows < 0, np.float32(-np.inf), scores)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def write_faiss_index(store: VectorStore, kind: str, settings: AnnSettings, file: Path) -> None:
    """Build a FAISS index of a store's vectors and write it to a file.

    Raises:
        ConfigError: A setting does not fit the width of the vectors.
        StoreError: There are too few passages to train on.
        OSError: The file cannot be written.
    """
    faiss, index = import_faiss(), _new_faiss_index(store, kind, settings)
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
    """Return the faiss module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError("FAISS is not installed; run: pip install 'llama2vec[search]'") from error
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
    faiss = import_faiss()
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

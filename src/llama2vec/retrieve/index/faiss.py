"""Find the nearest vectors of a store through FAISS: graphs, cells, and codes of a few bytes a passage.

Codes are smaller than the store's vectors and less exact, so the store ranks the best candidates again: memory holds
the codes, and the vectors stay on the disk. ``faiss-int8`` takes a byte for each dimension, ``faiss-binary`` a bit
(RaBitQ, arXiv 2405.12497); from 200,000 passages on both compare only with the passages of the nearest cells.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.errors import ConfigError, MissingDependencyError, StoreError
from llama2vec.retrieve.index.exact import ExactIndex, Rows, Scores, are_few, checked_queries, count_allowed, shortened
from llama2vec.retrieve.settings import FaissSearch, IndexKind
from llama2vec.retrieve.store.reader import Vectors, VectorStore
from llama2vec.terminal import ProgressReporter

logger = logging.getLogger(__name__)

_TRAIN_PER_CENTROID = 39
"""Training vectors per centroid below which FAISS warns (ClusteringParameters.min_points_per_centroid)."""
_HNSW_LINKS, _HNSW_BUILD, _HNSW_SEARCH = 32, 200, 128
"""Links per vector, and candidates examined while building and searching (arXiv 1603.09320: M, efConstruction, ef)."""
_CELLS_SEARCHED = 32
_ADDED_VECTORS = 8192
_PARTITIONED = 200_000
"""Passages from which on codes lie in cells."""
_CODE_SAMPLE = 1 << 16
_QUERY_BITS = 8
"""Bits for each dimension of a query that is compared with bits."""
_RANKED_AGAIN = 1 << 16
"""Candidates whose vectors are read at once: 150 MB at a width of 576."""


class FaissIndex:
    """Search an index that FAISS holds in memory."""

    def __init__(self, store: VectorStore, kind: str, file: Path, settings: FaissSearch | None = None) -> None:
        self.store, self.kind = store, kind
        self.settings = settings or FaissSearch()
        try:
            self._faiss_index = import_faiss().read_index(str(file))
        except RuntimeError as error:
            raise StoreError(f"{file} cannot be read by FAISS; build the index again") from error

    @property
    def cells(self) -> int | None:
        """How many cells the vectors lie in; None = they do not."""
        is_cut = isinstance(self._faiss_index, import_faiss().IndexIVF)
        return int(self._faiss_index.nlist) if is_cut else None

    @property
    def code_bytes(self) -> int:
        """Bytes that the index holds of each passage, without links."""
        # A graph's vectors are whole; the other kinds say what theirs take.
        return int(getattr(self._faiss_index, "code_size", 4 * self._faiss_index.d))

    @property
    def scores_are_exact(self) -> bool:
        """Whether FAISS compares with the store's vectors as they are."""
        return self.settings.dims is None and self.kind in ("faiss-flat", "faiss-hnsw")

    def facts(self) -> str:
        """Return in a line what the index holds of a passage, how it is searched, and what that finds."""
        settings, held = self.settings, f"{self.code_bytes:,} bytes a passage"
        facts = [held if settings.dims is None else f"{held} of {settings.dims} dimensions"]
        if settings.effort is not None:
            what = f" of {self.cells:,} cells" if self.cells else " candidates in the graph"
            facts.append(f"{settings.effort:,}{what} searched")
        if settings.rescore:
            facts.append(f"{settings.rescore} candidates a hit ranked again by the store's vectors")
        if settings.measured is not None:
            facts.append(f"recall@10 {settings.measured:.3f} on sampled passages (asked for: {settings.recall})")
        return "; ".join(facts)

    def search(self, vectors: Vectors, depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """See :meth:`ExactIndex.search`; among few allowed rows the search is exact."""
        count = count_allowed(self.store, allowed)
        if are_few(self.store, allowed):
            return ExactIndex(self.store).search(vectors, depth, allowed)
        queries, depth = checked_queries(vectors, depth, self.store), min(depth, count)
        if not len(queries):
            return np.empty((0, depth), dtype=np.float32), np.empty((0, depth), dtype=np.int64)
        if self.settings.rescore:
            scores, rows = self._ranked_again(queries, depth, allowed)
        else:
            scores, rows = self.candidates(queries, depth, allowed)
            scores, rows = _sorted(np.where(rows < 0, np.float32(-np.inf), scores), rows)
        lacking = np.flatnonzero(rows[:, -1] < 0)
        if allowed is not None and len(lacking):
            scores[lacking], rows[lacking] = ExactIndex(self.store).search(queries[lacking], depth, allowed)
        return scores, rows

    def candidates(self, queries: Vectors, depth: int, allowed: Rows | None = None) -> tuple[Scores, Rows]:
        """Return what FAISS finds for queries [Q, D], best first by its own scores; row -1 where it finds no more."""
        asked = np.ascontiguousarray(shortened(queries, self.settings.dims))
        found: tuple[Scores, Rows] = self._faiss_index.search(asked, depth, params=self._parameters(depth, allowed))
        return found

    def _ranked_again(self, queries: Vectors, depth: int, allowed: Rows | None) -> tuple[Scores, Rows]:
        """Return the best [Q, K] of several candidates a hit, by the store's vectors."""
        reach = min(count_allowed(self.store, allowed), depth * self.settings.rescore)
        scores = np.empty((len(queries), depth), dtype=np.float32)
        rows = np.empty((len(queries), depth), dtype=np.int64)
        step = max(1, _RANKED_AGAIN // reach)
        for begin in range(0, len(queries), step):
            part = slice(begin, begin + step)
            found = self.candidates(queries[part], reach, allowed)[1]
            read, place = np.unique(np.maximum(found, 0), return_inverse=True)
            products = queries[part] @ self.store.vectors(read).T
            exact = np.take_along_axis(products, place.reshape(found.shape), axis=1)
            best = _sorted(np.where(found < 0, np.float32(-np.inf), exact), found)
            scores[part], rows[part] = best[0][:, :depth], best[1][:, :depth]
        return scores, rows

    def _parameters(self, depth: int, allowed: Rows | None) -> Any:
        """Return how far to search: the fewer rows are allowed, the farther, so that as many candidates are found."""
        faiss, options = import_faiss(), dict[str, Any]()
        if allowed is not None:
            bits = np.zeros(len(self.store), dtype=np.bool_)
            bits[allowed] = True
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        farther, effort = len(self.store) / count_allowed(self.store, allowed), self.settings.effort
        if isinstance(self._faiss_index, faiss.IndexHNSW):
            reach = math.ceil(farther * max(effort or _HNSW_SEARCH, depth))
            return faiss.SearchParametersHNSW(efSearch=reach, **options)
        if isinstance(self._faiss_index, faiss.IndexIVF):
            options["nprobe"] = min(self._faiss_index.nlist, math.ceil(farther * (effort or _CELLS_SEARCHED)))
            if isinstance(self._faiss_index, faiss.IndexIVFRaBitQ):
                return faiss.IVFRaBitQSearchParameters(qb=_QUERY_BITS, **options)
            return faiss.SearchParametersIVF(**options)
        if isinstance(self._faiss_index, faiss.IndexRaBitQ):
            return faiss.RaBitQSearchParameters(qb=_QUERY_BITS, **options)
        return faiss.SearchParameters(**options)


def default_search(kind: IndexKind, dims: int | None) -> FaissSearch:
    """Return how an index is searched that was not tuned."""
    rescore = {"faiss-int8": 4, "faiss-binary": 32}.get(kind, 0)
    return FaissSearch(dims=dims, rescore=max(rescore, 16 if dims else 0))


def write_faiss_index(store: VectorStore, kind: str, file: Path, dims: int | None = None) -> None:
    """Build a FAISS index of a store's vectors, or of their first ``dims`` dimensions, and write it to a file."""
    if dims is not None and not 0 < dims < store.dimension:
        raise ConfigError(f"--dims {dims}: the vectors of {store.path} have {store.dimension}; give fewer")
    index = _new_faiss_index(store, kind, dims)
    with ProgressReporter("indexing", "passage") as progress:
        progress.start(len(store))
        for _, shard in store.shards():
            for begin in range(0, len(shard), _ADDED_VECTORS):
                vectors = np.ascontiguousarray(shard[begin : begin + _ADDED_VECTORS], dtype=np.float32)
                index.add(np.ascontiguousarray(shortened(vectors, dims)))
                progress.advance(len(vectors))
    faiss = import_faiss()
    # Through Python, because FAISS's own writer prints its errors and hides their numbers.
    with file.open("wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))


def import_faiss() -> Any:
    """Return the faiss module, or raise a :class:`MissingDependencyError`."""
    # Not at the top: exact search does without, and starts faster.
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError("FAISS is not installed; run: pip install 'llama2vec[search]'") from None
    return faiss


def _new_faiss_index(store: VectorStore, kind: str, dims: int | None) -> Any:
    """Return an empty FAISS index, trained if its kind needs that."""
    faiss, width = import_faiss(), dims or store.dimension
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "faiss-flat":
        return faiss.IndexFlatIP(width)
    if kind == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(width, _HNSW_LINKS, product)
        index.hnsw.efConstruction = _HNSW_BUILD
        return index
    codes = {"faiss-int8": "SQ8", "faiss-binary": "RaBitQ"}.get(kind)
    if codes and len(store) < _PARTITIONED:
        index = faiss.index_factory(width, codes, product)
        index.train(shortened(store.vectors(_sampled(store, min(len(store), _CODE_SAMPLE))), dims))
        return index
    cells = min(round(4 * len(store) ** 0.5), max(1, len(store) // _TRAIN_PER_CENTROID))
    centroids = max(cells, 256)
    sample, needed = min(len(store), 64 * centroids), _TRAIN_PER_CENTROID * centroids
    if sample < needed:
        raise StoreError(
            f"{store.path}: faiss-ivfpq with {cells} cells needs {needed:,} passages to train on and has {sample:,}; "
            "use exact or faiss-hnsw"
        )
    code_bytes = max(divisor for divisor in range(1, min(width, 64) + 1) if width % divisor == 0)
    logger.info("training %d cells and %d codes on %d of %d passages", cells, code_bytes, sample, len(store))
    index = faiss.index_factory(width, f"IVF{cells},{codes or f'PQ{code_bytes}np'}", product)
    index.train(shortened(store.vectors(_sampled(store, sample)), dims))
    return index


def _sampled(store: VectorStore, size: int) -> Rows:
    """Return rows for training, the same ones always."""
    return np.sort(np.random.default_rng(0).choice(len(store), size=size, replace=False))


def _sorted(scores: Scores, rows: Rows) -> tuple[Scores, Rows]:
    """Return scores and rows [Q, K], best first, equal scores in row order."""
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

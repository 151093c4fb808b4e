"""Find how far a FAISS index must be searched to find a given share of the true neighbors, on a sample of passages.

Queries are sampled passages, each looking for its ten nearest other ones. Questions may lie farther from passages than
passages from each other, so the recall for questions can be lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from llama2vec.errors import StoreError
from llama2vec.retrieve.index.exact import ExactIndex, Rows
from llama2vec.retrieve.index.faiss import FaissIndex
from llama2vec.retrieve.settings import FaissSearch, IndexKind
from llama2vec.retrieve.store.reader import Vectors, VectorStore

DEPTH = 10
"""Neighbors that count, as in recall@10."""
_QUERIES = 500
_FEW, _IN_BYTES = 50_000, 20_000_000
_RESCORES = (1, 2, 4, 8, 16, 32, 64, 128)
_RANDOM_READ = 8
"""A byte of a vector that is read alone costs as much as so many of those that are read in a row."""


def kind_for(passages: int) -> IndexKind:
    """Return the kind of index for a number of passages. A graph would take longer to build, and more memory.

    >>> kind_for(20_000), kind_for(1_000_000), kind_for(100_000_000)
    ('exact', 'faiss-int8', 'faiss-binary')
    """
    return "exact" if passages <= _FEW else "faiss-int8" if passages <= _IN_BYTES else "faiss-binary"


def tuned(index: FaissIndex, target: float) -> FaissSearch:
    """Return the cheapest settings with which an index finds ``target`` (0..1) of the true ten nearest.

    Raises:
        StoreError: No settings reach it.
    """
    store, first = index.store, index.settings
    queries, own, wanted = _sample(store)
    best, highest = None, 0.0
    for effort in _efforts(index):
        if best and _cost(index, effort, 0) >= best[0]:
            break  # Farther searches cost more still, and with millions of passages take minutes to try
        index.settings = first.model_copy(update={"effort": effort})
        for rescore, recall in _recalls(index, queries, own, wanted):
            highest = max(highest, recall)
            if recall >= target:
                cost = _cost(index, effort, rescore)
                if best is None or cost < best[0]:
                    best = cost, effort, rescore
                break
            if best and _cost(index, effort, 2 * rescore) >= best[0]:
                break
    index.settings = first
    if best is None:
        raise StoreError(
            f"{index.kind} over {store.path} reaches a recall@{DEPTH} of {highest:.3f} at most, not {target}; ask for "
            "less, or choose another --kind"
        )
    _, effort, rescore = best
    index.settings = first.model_copy(update={"effort": effort, "rescore": rescore})
    measured = _recall(index.search(queries, DEPTH + 1)[1], own, wanted)
    return index.settings.model_copy(update={"recall": target, "measured": round(measured, 4)})


def _sample(store: VectorStore) -> tuple[Vectors, Rows, Rows]:
    """Return queries [Q, D], their rows [Q], and the rows [Q, 10] of the nearest other passages."""
    own = np.linspace(0, len(store) - 1, min(_QUERIES, len(store))).astype(np.int64)
    queries = store.vectors(own)
    found = ExactIndex(store).search(queries, DEPTH + 1)[1]
    return queries, own, _others(found, own)


def _others(found: Rows, own: Rows) -> Rows:
    """Return the first ten rows [Q, 10] of more, without each query's own.

    >>> _others(np.arange(11)[None], np.array([3])).tolist()
    [[0, 1, 2, 4, 5, 6, 7, 8, 9, 10]]
    """
    # A stable sort that puts the query's own row last.
    order = np.argsort(found == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)[:, :DEPTH]


def _recall(found: Rows, own: Rows, wanted: Rows) -> float:
    pairs = zip(_others(found, own).tolist(), wanted.tolist(), strict=True)
    return float(np.mean([len(set(best) & set(true)) / max(1, len(true)) for best, true in pairs]))


def _recalls(index: FaissIndex, queries: Vectors, own: Rows, wanted: Rows) -> Iterator[tuple[int, float]]:
    """Yield (candidates a hit, recall) from few to many; 0 = FAISS's own scores, where they are exact."""
    if index.scores_are_exact:
        yield 0, _recall(index.search(queries, DEPTH + 1)[1], own, wanted)
        return
    for rescore in _RESCORES:
        reach = min(len(index.store), (DEPTH + 1) * rescore)
        candidates = index.candidates(queries, reach)[1].tolist()
        # Ranked by the store's vectors, those that are wanted come first.
        pairs = zip(candidates, wanted.tolist(), strict=True)
        yield rescore, float(np.mean([len(set(some) & set(true)) / max(1, len(true)) for some, true in pairs]))
        if reach == len(index.store):
            return


def _efforts(index: FaissIndex) -> list[int | None]:
    """Return how far an index can be searched: cells, or candidates in a graph; None = it has no such setting."""
    if index.cells is not None:
        return [2**power for power in range(math.ceil(math.log2(index.cells)))] + [index.cells]
    return [16, 32, 64, 128, 256, 512, 1024, 2048] if index.kind == "faiss-hnsw" else [None]


def _cost(index: FaissIndex, effort: int | None, rescore: int) -> float:
    """Return about how many bytes a query reads; equal on every machine, so that an index is built the same."""
    width = index.store.dimension
    again = DEPTH * rescore * width * 4 * _RANDOM_READ
    if index.kind == "faiss-hnsw":
        return (effort or 1) * width * 4 * _RANDOM_READ + again
    read = len(index.store) * index.code_bytes
    return again + (read * (effort or 1) / index.cells if index.cells else read)

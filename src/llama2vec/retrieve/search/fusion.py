"""One ranking from several: of two modes of search (hybrid), or of the windows of documents (MaxP).

Fusion is exact: sums are rounded once (:func:`math.fsum`), so the order of the runs never matters, and equal scores are
ordered by passage id, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, get_args

from llama2vec.data.documents.windows import max_passage
from llama2vec.errors import ConfigError
from llama2vec.records import Query, Run

Mode = Literal["dense", "bm25", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)
FusionMethod = Literal["min-max", "rrf"]

FUSED_DEPTH = 1000
"""How many passages of each mode hybrid compares by score; deeper ones only follow, so the first ranks stay."""

_RANK_CONSTANT = 60
"""The constant of reciprocal rank fusion that Cormack, Clarke and Büttcher chose (SIGIR 2009)."""
_FEW_HITS = 10
"""With fewer lexical hits, the lowest of them says nothing about a passage that was not found."""
_STEP = 2.0**-50
"""From one rank to the next below the compared ones: too little to see, and exact in floating point."""
_EDGE = 1 + 2**-20
"""Weighs few lexical hits a little more, so that the only one wins the tie against the nearest vector."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How ``hybrid`` makes one ranking of two.

    Raises:
        ConfigError: The method or a mode is unknown, a weight is negative or not finite, or none counts.
    """

    method: FusionMethod = "min-max"  # of scores brought to 0..1, or reciprocal ranks
    weights: Mapping[str, float] = field(default_factory=dict)  # by mode; a mode that is not named has the weight 1

    def __post_init__(self) -> None:
        if self.method not in get_args(FusionMethod):
            raise ConfigError(f"unknown fusion {self.method!r}; choose one of {', '.join(get_args(FusionMethod))}")
        unknown = sorted(set(self.weights) - set(MODES[:-1]))
        if unknown:
            raise ConfigError(f"unknown mode {unknown[0]!r} in the fusion weights; choose from {', '.join(MODES[:-1])}")
        weights = [float(self.weights.get(mode, 1.0)) for mode in MODES[:-1]]
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ConfigError("fusion weights must be at least 0 and not all 0; leave them out for 1 and 1")

    def shares(self) -> dict[Mode, float]:
        """Return mode → weight of the modes that count.

        >>> Fusion(weights={"dense": 0.0}).shares()
        {'bm25': 1.0}
        """
        shares = {mode: float(self.weights.get(mode, 1.0)) for mode in MODES[:-1]}
        return {mode: share for mode, share in shares.items() if share}

    def fuse(self, runs: Mapping[Mode, Run], depth: int) -> Run:
        """Return one run, ``depth`` passages per query, from those of the modes that :meth:`shares` names."""
        weights = [self.shares()[mode] for mode in runs]
        if self.method == "rrf":
            return reciprocal_rank_fusion(list(runs.values()), weights, depth)
        return min_max_fusion(list(runs.values()), weights, depth, lexical=[mode == "bm25" for mode in runs])


def reciprocal_rank_fusion(
    runs: Sequence[Run],
    weights: Sequence[float] | None = None,
    depth: int | None = None,
    *,
    compared: int = FUSED_DEPTH,
) -> Run:
    """Score each passage by the sum of weight / (60 + rank) over the runs that found it (Cormack et al., SIGIR 2009).

    Runs may differ in depth and in their queries. Without ``weights`` all runs count alike, and without ``depth`` all
    passages are returned. The first ``compared`` passages of each run get a score; deeper ones follow as in
    :func:`min_max_fusion`.

    >>> fused = reciprocal_rank_fusion([Run({"q": {"a": 9.0, "b": 8.0}}), Run({"q": {"b": 0.3}})])
    >>> [(passage, round(score, 5)) for passage, score in fused.ranking("q")]
    [('b', 0.03252), ('a', 0.01639)]
    """
    results = {}
    for query_id in _query_ids(runs):
        firsts, deeper = _divided(runs, query_id, compared)
        parts: dict[str, list[float]] = {}
        for first, weight in zip(firsts, weights or [1.0] * len(runs), strict=True):
            for rank, (passage_id, _) in enumerate(Run({"": first}).ranking(""), start=1):
                parts.setdefault(passage_id, []).append(weight / (_RANK_CONSTANT + rank))
        fused = {passage: math.fsum(terms) for passage, terms in parts.items()}
        results[query_id] = _best(fused | _below(0.0, deeper), depth)
    return Run(results, tag="hybrid")


def min_max_fusion(
    runs: Sequence[Run],
    weights: Sequence[float] | None = None,
    depth: int | None = None,
    *,
    lexical: Sequence[bool] | None = None,
    compared: int = FUSED_DEPTH,
) -> Run:
    """Score each passage by the weighted mean of its scores, brought to 0..1 in each query and run.

    A passage that a run did not return counts there as the lowest that it did return. A lexical run that found fewer
    than 10 passages, or gave all of them the same score, scores the others 0, which is what they share with the query.
    A run that found nothing for a query does not count for it.

    Args:
        runs: They may differ in depth, and a query may be missing from some.
        weights: One per run; None = equal.
        depth: Most passages per query; None = all.
        lexical: Whether each run scores shared words, so that 0 means none; None = no run does.
        compared: How many passages of each run are scaled. A deeper one counts as one that the run did not return.
            Those that no run has among its first ones follow in the order of their best ranks, with scores that are
            lower by next to nothing. So a deeper search only adds passages after those of a shallow one.

    >>> fused = min_max_fusion([Run({"q": {"a": 9.0, "b": 7.0}}), Run({"q": {"b": 3.0, "c": 1.0}})], [3, 1])
    >>> fused.ranking("q")
    [('a', 0.75), ('b', 0.25), ('c', 0.0)]
    """
    shares, kinds = weights or [1.0] * len(runs), lexical or [False] * len(runs)
    results = {}
    for query_id in _query_ids(runs):
        firsts, deeper = _divided(runs, query_id, compared)
        found = dict.fromkeys(passage for first in firsts for passage in first)
        sides = []
        for first, share, is_lexical in zip(firsts, shares, kinds, strict=True):
            scores = first
            if is_lexical and scores and (len(scores) < _FEW_HITS or len(set(scores.values())) == 1):
                share, scores = share * _EDGE, {**dict.fromkeys(found, 0.0), **scores}
            scaled = _scaled(scores)
            sides.append((share, scaled, min(scaled.values(), default=0.0)))
        total = math.fsum(share for share, _, _ in sides)
        fused = {name: math.fsum(share * scaled.get(name, low) for share, scaled, low in sides) for name in found}
        lowest = math.fsum(share * low for share, _, low in sides) / total
        means = {name: score / total for name, score in fused.items()}
        results[query_id] = _best(means | _below(lowest, deeper), depth)
    return Run(results, tag="hybrid")


def _divided(runs: Sequence[Run], query_id: str, compared: int) -> tuple[list[Mapping[str, float]], dict[str, int]]:
    """Return the first passages of each run, and how far below them any other one ranks where it ranks best."""
    firsts: list[Mapping[str, float]] = []
    deeper: dict[str, int] = {}
    for run in runs:
        scores = run.results.get(query_id, {})
        if len(scores) > compared:
            # Equal scores stay in the order of the run, in which a deeper search continues it.
            best = sorted(scores.items(), key=lambda pair: -pair[1])
            for below, (name, _) in enumerate(best[compared:], start=1):
                deeper[name] = min(below, deeper.get(name, below))
            scores = dict(best[:compared])
        firsts.append(scores)
    for first in firsts if deeper else ():
        for name in first:
            deeper.pop(name, None)
    return firsts, deeper


def _below(lowest: float, deeper: Mapping[str, int]) -> dict[str, float]:
    """Return scores just below the lowest one, in the order of the ranks."""
    return {name: lowest - below * _STEP for name, below in deeper.items()}


def _scaled(scores: Mapping[str, float]) -> Mapping[str, float]:
    """Bring one query's scores to 0..1, or to 1 where all are equal."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    if low == high:
        return dict.fromkeys(scores, 1.0)
    return {passage: (score - low) / (high - low) for passage, score in scores.items()}


def _best(scores: Mapping[str, float], depth: int | None) -> dict[str, float]:
    return dict(Run({"": scores}).ranking("")[:depth])


def _query_ids(runs: Sequence[Run]) -> list[str]:
    """Return the queries of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(query_id for run in runs for query_id in run.results))


def search_documents(
    search_windows: Callable[[Sequence[Query], int], Run],
    queries: Sequence[Query],
    *,
    depth: int,
    excluded: Collection[str] = (),
) -> Run:
    """Return each query's best documents; a document scores as its best window (MaxP).

    A query is searched again, twice as deep, until ``depth`` documents score above the last window that was found, or
    the index ends. Windows below the last one can change neither those documents nor the order of equal scores.

    Args:
        search_windows: Called with the queries that still lack documents and a depth in windows; returns a run that is
            shorter than the depth only at the end of the index.
        queries: The queries.
        depth: Documents per query.
        excluded: Ids of the queries for which the document of the same id is skipped.
    """
    found: dict[str, dict[str, float]] = {}
    wanted = depth + bool(excluded)
    reach, open_queries, tag = 2 * wanted, list(queries), Run({}).tag
    while open_queries:
        windows = search_windows(open_queries, reach)
        documents, tag = max_passage(windows), windows.tag
        deeper = []
        for query in open_queries:
            scores = windows.results.get(query.id, {})
            lowest = min(scores.values(), default=0.0)
            settled = sum(score > lowest for score in documents.results.get(query.id, {}).values())
            if len(scores) >= reach and settled < wanted:
                deeper.append(query)
            else:
                found[query.id] = dict(documents.ranking(query.id)) if scores else {}
        open_queries, reach = deeper, 2 * reach
    run = Run({query.id: found[query.id] for query in queries}, tag)
    return first_of_each(run, depth, excluded)


def first_of_each(run: Run, depth: int | None, excluded: Collection[str] = ()) -> Run:
    """Return the first ``depth`` passages of each query (None = all); those in ``excluded`` lose that of their id.

    >>> first_of_each(Run({"q": {"q": 9.0, "b": 2.0, "a": 1.0}}), 1, excluded={"q"}).results
    {'q': {'b': 2.0}}
    """
    results = {}
    for query_id, scores in run.results.items():
        own = query_id if query_id in excluded else None
        results[query_id] = dict(islice((pair for pair in scores.items() if pair[0] != own), depth))
    return Run(results, run.tag)

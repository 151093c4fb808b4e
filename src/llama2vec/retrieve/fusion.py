"""One ranking from several: reciprocal ranks, or scores brought to one scale.

Both are exact: sums are rounded once (:func:`math.fsum`), so the order of the runs never decides, and equal scores are
ordered by passage id as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from llama2vec.errors import ConfigError
from llama2vec.records import Run

RANK_CONSTANT = 60
"""Of reciprocal rank fusion, as Cormack, Clarke and Büttcher chose it (SIGIR 2009)."""

Scale = Literal["min-max", "z-score"]


def reciprocal_rank_fusion(
    runs: Sequence[Run],
    *,
    weights: Sequence[float] | None = None,
    rank_constant: int = RANK_CONSTANT,
    depth: int | None = None,
    tag: str = "hybrid",
) -> Run:
    """Score each passage by the sum of weight / (60 + rank) over the runs that found it (Cormack et al., SIGIR 2009).

    Args:
        runs: At least one; they may differ in depth, and a query may be missing from some.
        weights: One for each run; None = all alike.
        rank_constant: The larger, the less the first ranks stand out.
        depth: Most passages per query; None = all.
        tag: Name of the result.

    Raises:
        ConfigError: There is no run, or the weights do not fit.

    >>> fused = reciprocal_rank_fusion([Run({"q": {"a": 9.0, "b": 8.0}}), Run({"q": {"b": 0.3}})])
    >>> [(passage, round(score, 5)) for passage, score in fused.ranking("q")]
    [('b', 0.03252), ('a', 0.01639)]
    """
    shares = _checked_weights(runs, weights)
    if rank_constant < 0:
        raise ConfigError(f"rank_constant must be at least 0, not {rank_constant}")
    results = {}
    for query_id in _query_ids(runs):
        parts: dict[str, list[float]] = {}
        for run, share in zip(runs, shares, strict=True):
            if query_id in run.results:
                for rank, (passage_id, _) in enumerate(run.ranking(query_id), start=1):
                    parts.setdefault(passage_id, []).append(share / (rank_constant + rank))
        results[query_id] = _best({passage: math.fsum(terms) for passage, terms in parts.items()}, depth)
    return Run(results, tag=tag)


def weighted_fusion(
    runs: Sequence[Run],
    *,
    weights: Sequence[float] | None = None,
    scale: Scale = "min-max",
    depth: int | None = None,
    tag: str = "hybrid",
) -> Run:
    """Score each passage by the weighted mean of its scores, brought to one scale in each query and run.

    A passage that a run did not return counts there as the lowest that it did return; a run without the query, or
    without a passage for it, says nothing about it.

    Args:
        runs: At least one; they may differ in depth, and a query may be missing from some.
        weights: One for each run; None = all alike.
        scale: ``min-max`` maps a query's scores to 0..1, ``z-score`` to mean 0 and deviation 1.
        depth: Most passages per query; None = all.
        tag: Name of the result.

    Raises:
        ConfigError: There is no run, no such scale, or the weights do not fit.

    >>> fused = weighted_fusion([Run({"q": {"a": 9.0, "b": 7.0}}), Run({"q": {"b": 3.0, "c": 1.0}})], weights=[3, 1])
    >>> fused.ranking("q")
    [('a', 0.75), ('b', 0.25), ('c', 0.0)]
    """
    shares = _checked_weights(runs, weights)
    if scale not in get_args(Scale):
        raise ConfigError(f"there is no scale {scale!r}; choose one of {', '.join(get_args(Scale))}")
    total = math.fsum(shares)
    results = {}
    for query_id in _query_ids(runs):
        scaled = [_scaled(run.results.get(query_id, {}), scale) for run in runs]
        lowest = [min(scores.values(), default=0.0) for scores in scaled]
        found = dict.fromkeys(passage for scores in scaled for passage in scores)
        results[query_id] = _best(
            {
                passage: math.fsum(
                    share * scores.get(passage, low) for share, scores, low in zip(shares, scaled, lowest, strict=True)
                )
                / total
                for passage in found
            },
            depth,
        )
    return Run(results, tag=tag)


def _scaled(scores: Mapping[str, float], scale: Scale) -> dict[str, float]:
    """Bring one query's scores to the scale; where all are equal, to 1 (min-max) or 0 (z-score)."""
    values = list(scores.values())
    if not values or min(values) == max(values):
        return dict.fromkeys(scores, 1.0 if scale == "min-max" else 0.0)
    low, spread = min(values), max(values) - min(values)
    scaled = {passage: (score - low) / spread for passage, score in scores.items()}
    if scale == "min-max":
        return scaled
    # Of the scores in 0..1: the same z-scores, and squares of tiny differences do not vanish.
    mean = math.fsum(scaled.values()) / len(values)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scaled.values()) / len(values))
    return {passage: (score - mean) / deviation for passage, score in scaled.items()}


def _best(scores: Mapping[str, float], depth: int | None) -> dict[str, float]:
    return dict(Run({"": scores}).ranking("")[:depth])


def _query_ids(runs: Sequence[Run]) -> list[str]:
    """Return the queries of all runs, in the order in which they first appear."""
    return list(dict.fromkeys(query_id for run in runs for query_id in run.results))


def _checked_weights(runs: Sequence[Run], weights: Sequence[float] | None) -> list[float]:
    if not runs:
        raise ConfigError("there is no run to fuse; give at least one")
    if weights is None:
        return [1.0] * len(runs)
    if len(weights) != len(runs):
        raise ConfigError(f"there are {len(weights)} fusion weights for {len(runs)} runs; give one for each")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ConfigError(f"fusion weights must be at least 0 and not all 0, not {', '.join(map(str, weights))}")
    return [float(weight) for weight in weights]

"""One ranking from several: reciprocal ranks, or scores brought to one scale.

Both are exact: sums are rounded once (:func:`math.fsum`), so the order of the runs never matters, and equal scores are
ordered by passage id, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from llama2vec.errors import ConfigError
from llama2vec.records import Run

RANK_CONSTANT = 60
"""The constant of reciprocal rank fusion that Cormack, Clarke and Büttcher chose (SIGIR 2009)."""

Scale = Literal["min-max", "z-score"]
Mode = Literal["dense", "bm25", "hybrid"]
FusionMethod = Literal["rrf"] | Scale
MODES: tuple[Mode, ...] = get_args(Mode)
_SINGLE = MODES[:-1]

_FEW_HITS = 10
"""With fewer lexical hits, the lowest of them is no measure of a passage that was not found."""
_EDGE = 1 + 2**-20
"""Lets the only passage with the query's words win the tie against the nearest vector."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How ``hybrid`` makes one ranking of two.

    Attributes:
        method: ``min-max`` or ``z-score`` = scores brought to that scale; ``rrf`` = reciprocal ranks.
        weights: Mode → weight; a mode that is not named has the weight 1.
    """

    method: FusionMethod = "min-max"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        methods = ("rrf", *get_args(Scale))
        if self.method not in methods:
            raise ConfigError(f"unknown fusion {self.method!r}; choose one of {', '.join(methods)}")
        unknown = sorted(set(self.weights) - set(_SINGLE))
        if unknown:
            raise ConfigError(f"unknown mode {unknown[0]!r} in the fusion weights; choose from {', '.join(_SINGLE)}")

    def shares(self) -> dict[Mode, float]:
        """Return mode → weight of the modes that count.

        >>> Fusion(weights={"dense": 0.0}).shares()
        {'bm25': 1.0}

        Raises:
            ConfigError: None counts.
        """
        shares = {mode: float(self.weights.get(mode, 1.0)) for mode in _SINGLE}
        if not any(shares.values()):
            raise ConfigError("every mode has the weight 0; leave one at 1")
        return {mode: share for mode, share in shares.items() if share}

    def fuse(self, runs: Mapping[Mode, Run], depth: int) -> Run:
        """Return one run from those of the modes that :meth:`shares` names."""
        shares = self.shares()
        weights = [shares[mode] for mode in runs]
        if self.method == "rrf":
            return reciprocal_rank_fusion(list(runs.values()), weights=weights, depth=depth)
        lexical = [mode == "bm25" for mode in runs]
        return weighted_fusion(list(runs.values()), weights=weights, lexical=lexical, scale=self.method, depth=depth)


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
    lexical: Sequence[bool] | None = None,
    scale: Scale = "min-max",
    depth: int | None = None,
    tag: str = "hybrid",
) -> Run:
    """Score each passage by the weighted mean of its scores, brought to one scale in each query and run.

    A passage that a run did not return counts there as the lowest that it did return. A lexical run that found fewer
    than 10 passages, or gave all of them the same score, scores the others 0, which is what they share with the query.
    A run that found nothing for a query has no say in it.

    Args:
        runs: At least one; they may differ in depth, and a query may be missing from some.
        weights: One for each run; None = all alike.
        lexical: Whether each run scores shared words, so that 0 means none; None = no run does.
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
        raise ConfigError(f"unknown scale {scale!r}; choose one of {', '.join(get_args(Scale))}")
    total = math.fsum(shares)
    results = {}
    for query_id in _query_ids(runs):
        found = dict.fromkeys(passage for run in runs for passage in run.results.get(query_id, {}))
        scaled = [
            _scaled(run.results.get(query_id, {}), scale, found if is_lexical else None)
            for run, is_lexical in zip(runs, lexical or [False] * len(runs), strict=True)
        ]
        lowest = [min(scores.values(), default=0.0) for scores in scaled]
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


def _scaled(scores: Mapping[str, float], scale: Scale, all_found: Iterable[str] | None) -> dict[str, float]:
    """Bring one query's scores to the scale; where all are equal, to 1 (min-max) or 0 (z-score).

    Args:
        scores: Passage → score.
        scale: Which.
        all_found: What any run found, if the scores are lexical.
    """
    is_uniform = not scores or min(scores.values()) == max(scores.values())
    edge = 1.0
    if scores and all_found is not None and (is_uniform or len(scores) < _FEW_HITS):
        scores, edge = {**dict.fromkeys(all_found, 0.0), **scores}, _EDGE
        is_uniform = min(scores.values()) == max(scores.values())
    if is_uniform:
        return dict.fromkeys(scores, 1.0 if scale == "min-max" else 0.0)
    values = list(scores.values())
    low, spread = min(values), max(values) - min(values)
    scaled = {passage: (score - low) / spread for passage, score in scores.items()}
    if scale == "min-max":
        return {passage: score * edge for passage, score in scaled.items()} if edge != 1 else scaled
    # Scaling to 0..1 first gives the same z-scores, and squares of tiny differences do not vanish.
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

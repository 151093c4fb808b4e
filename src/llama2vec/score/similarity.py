"""Correlation of similarities with people's scores (STS), with bootstrap intervals."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.score.significance import FloatVector, Numbers, percentiles, resampled_rows

Correlation = Literal["spearman", "pearson"]


def score_similarities(similarities: Numbers, gold: Numbers) -> dict[str, float]:
    """Return the ``spearman`` and ``pearson`` correlation of similarities with gold scores, each in [-1, 1].

    >>> score_similarities([0.1, 0.4, 0.9], [0.0, 2.0, 5.0])["spearman"]
    1.0

    Args:
        similarities: [N] the system's scores.
        gold: [N] people's scores, in the same order.

    Raises:
        EvaluationError: Different lengths, fewer than two pairs, a value that is not finite, or constant input, for
            which correlation is undefined.
        MissingDependencyError: scipy is not installed.
    """
    stats = _scipy_stats()
    similar, wanted = _paired_scores(similarities, gold)
    spearman, pearson = stats.spearmanr(similar, wanted).statistic, stats.pearsonr(similar, wanted).statistic
    return {"spearman": float(spearman), "pearson": float(pearson)}


def correlation_interval(
    correlation: Correlation,
    similarities: Numbers,
    gold: Numbers,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the (low, high) percentile bootstrap interval of a correlation.

    Constant samples, which occur with a handful of pairs only, have no correlation and are skipped.

    Args:
        correlation: ``spearman`` or ``pearson``.
        similarities: [N] the system's scores.
        gold: [N] people's scores, in the same order.
        confidence: Share of the resampled correlations inside the interval, between 0 and 1.
        resamples: Number of samples of N pairs, drawn with replacement.
        seed: The same seed gives the same interval.

    Raises:
        EvaluationError: Input that :func:`score_similarities` refuses, or a setting out of range.
        MissingDependencyError: scipy is not installed.
    """
    similar, wanted = _paired_scores(similarities, gold)
    stats = _scipy_stats()
    correlate = stats.spearmanr if correlation == "spearman" else stats.pearsonr
    samples = [rows for block in resampled_rows(len(similar), resamples, seed) for rows in block]
    found = [
        float(correlate(similar[rows], wanted[rows]).statistic)
        for rows in samples
        if np.ptp(similar[rows]) > 0 and np.ptp(wanted[rows]) > 0
    ]
    if not found:
        raise EvaluationError(f"no sample of {len(similar)} pairs has a correlation; give more pairs")
    return percentiles(np.array(found), confidence)


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise MissingDependencyError("correlations need scipy; pip install 'llama2vec[evaluate]'") from None
    return stats


def _paired_scores(similarities: Numbers, gold: Numbers) -> tuple[FloatVector, FloatVector]:
    """Return both as [N] float64; check that they pair up, are finite and vary."""
    pair = np.asarray(similarities, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or len(pair[0]) < 2:
        shapes = f"{list(pair[0].shape)} similarities and {list(pair[1].shape)} gold scores"
        raise EvaluationError(f"{shapes} do not pair up; give one of each for two pairs or more")
    for name, values in zip(("similarities", "gold scores"), pair, strict=True):
        broken = np.flatnonzero(~np.isfinite(values))
        if len(broken):
            raise EvaluationError(f"the {name} hold {values[broken[0]]} at pair {broken[0] + 1}; give finite numbers")
        if np.ptp(values) == 0:
            raise EvaluationError(f"the {name} are all {values[0]:g}, so no correlation is defined; check the encoder")
    return pair

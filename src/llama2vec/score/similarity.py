"""Correlation of similarities with people's scores (STS), with bootstrap intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.score.significance import FloatVector, Numbers, percentiles, resampled_rows

Correlation = Literal["spearman", "pearson"]

Rows = npt.NDArray[np.float64]
"""[R, N] float64, a sample of N pairs in each row."""


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
    try:
        from scipy import stats
    except ImportError:
        raise MissingDependencyError("correlations need scipy; pip install 'llama2vec[evaluate]'") from None
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
    """Return the (low, high) percentile bootstrap interval of a correlation; Spearman's ranks every sample anew.

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
    correlate = _spearman if correlation == "spearman" else _pearson
    found = [correlate(similar[rows], wanted[rows]) for rows in resampled_rows(len(similar), resamples, seed)]
    correlations = np.concatenate(found)
    defined = correlations[np.isfinite(correlations)]
    if not len(defined):
        raise EvaluationError(f"no sample of {len(similar)} pairs has a correlation; give more pairs")
    return percentiles(defined, confidence)


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


def _spearman(first: Rows, second: Rows) -> FloatVector:
    """Return [R] rank correlations of [R, N] rows; NaN where a row is constant."""
    try:
        from scipy.stats import rankdata
    except ImportError:
        raise MissingDependencyError("correlations need scipy; pip install 'llama2vec[evaluate]'") from None
    return _pearson(rankdata(first, axis=1), rankdata(second, axis=1))


def _pearson(first: Rows, second: Rows) -> FloatVector:
    """Return [R] correlations of [R, N] rows; NaN where a row is constant."""
    centered = [rows - rows.mean(axis=1, keepdims=True) for rows in (first, second)]
    product = (centered[0] * centered[1]).sum(axis=1)
    norm = np.sqrt((centered[0] ** 2).sum(axis=1) * (centered[1] ** 2).sum(axis=1))
    # The norm alone does not tell: rounding may move the mean of equal values.
    varies = (np.ptp(first, axis=1) > 0) & (np.ptp(second, axis=1) > 0) & (norm > 0)
    result: FloatVector = np.divide(product, norm, out=np.full_like(norm, np.nan), where=varies)
    return result

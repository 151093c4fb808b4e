"""Bootstrap intervals: how far a mean or a correlation may be off by chance of the sample.

Percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.evaluate.sts import Numbers, paired_scores

# Sampled indices held at once, 8 bytes each.
_CHUNK = 2_000_000


def bootstrap_interval(
    values: Sequence[float] | npt.NDArray[np.floating],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return (low, high) of the percentile bootstrap interval of the mean.

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)

    Args:
        values: [Q] one value per query.
        confidence: Share of the resampled means inside the interval, between 0 and 1.
        resamples: How many samples of Q values are drawn with replacement.
        seed: The same seed gives the same interval.

    Raises:
        EvaluationError: No value, one that is not finite, or a setting out of range.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise EvaluationError("an interval needs one finite value per query, and at least one; check the scores")
    means = np.concatenate([numbers[sample].mean(axis=1) for sample in _samples(len(numbers), resamples, seed)])
    return _percentiles(means, confidence)


def bootstrap_spearman_interval(
    similarities: Numbers, gold: Numbers, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return (low, high) of the percentile bootstrap interval of Spearman's correlation.

    Pairs are drawn with replacement and ranked anew in every sample. A sample that is constant has no correlation
    and is left out; this happens with a handful of pairs only.

    Args:
        similarities: [N] what the system says.
        gold: [N] what people said, in the same order.
        confidence: Share of the resampled correlations inside the interval, between 0 and 1.
        resamples: How many samples are drawn.
        seed: The same seed gives the same interval.

    Raises:
        EvaluationError: Input that :func:`llama2vec.evaluate.sts.paired_scores` refuses, or a setting out of range.
        MissingDependencyError: scipy is not installed.
    """
    similar, wanted = paired_scores(similarities, gold)
    found = [_spearman(similar[sample], wanted[sample]) for sample in _samples(len(similar), resamples, seed)]
    correlations = np.concatenate(found)
    defined = correlations[np.isfinite(correlations)]
    if not len(defined):
        raise EvaluationError(f"no sample of {len(similar)} pairs has a correlation; give more pairs")
    return _percentiles(defined, confidence)


def _samples(size: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield [R, size] indices drawn with replacement, ``resamples`` rows in all."""
    if resamples < 1:
        raise EvaluationError(f"resamples is {resamples}; draw at least 1 sample")
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        yield generator.integers(0, size, size=(min(rows, resamples - start), size))


def _percentiles(statistics: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence is {confidence}; choose a share between 0 and 1, such as 0.95")
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def _spearman(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return [R] correlations of the ranks of [R, N] rows; NaN where a row is constant."""
    try:
        from scipy.stats import rankdata
    except ImportError:
        raise MissingDependencyError("correlations need scipy; pip install 'llama2vec[evaluate]'") from None
    # Average ranks always have the mean (N + 1) / 2.
    centre = (first.shape[1] + 1) / 2
    ranks = rankdata(first, axis=1) - centre, rankdata(second, axis=1) - centre
    product = (ranks[0] * ranks[1]).sum(axis=1)
    norm = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    result: npt.NDArray[np.float64] = np.divide(product, norm, out=np.full_like(norm, np.nan), where=norm > 0)
    return result

"""Bootstrap intervals: how far a mean or a correlation may be off by chance of the sample.

Percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.score.sts import FloatVector, Numbers, paired_scores

SAME = 1e-9
"""Values no further apart are the same value: measures of one ranking agree to rounding only."""

Rows = npt.NDArray[np.float64]
"""[R, N] float64, a sample of N pairs in each row."""

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


def bootstrap_difference(
    groups: Sequence[npt.NDArray[np.float64]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Return the percentile intervals of a mean difference and of its effect size d_z, from the same samples.

    Each group, the queries of one task, is resampled by itself; the mean difference is the mean of the groups' means,
    and d_z divides it by the root of the groups' mean variance. A sample that has a mean but no spread has no d_z and
    is left out; this happens with a handful of queries only.

    Args:
        groups: Per task the [Q] differences of its queries, Q ≥ 2.
        confidence: Share of the resampled statistics inside the interval, between 0 and 1.
        resamples: How many samples are drawn.
        seed: The same seed gives the same intervals; those of one group's mean are :func:`bootstrap_interval`'s.

    Returns:
        (low, high) of the mean, and of d_z; None where no sample has one.

    Raises:
        EvaluationError: A setting out of range.
    """
    means, variances = np.zeros((2, max(resamples, 0)))
    for number, differences in enumerate(groups):
        # A seed of its own: groups of one size would otherwise be drawn alike.
        seeds = [seed, number] if number else seed
        done = 0
        for sample in _samples(len(differences), resamples, seeds):
            drawn = differences[sample]
            part = slice(done, done := done + len(sample))
            means[part] += drawn.mean(axis=1) / len(groups)
            variances[part] += drawn.var(axis=1, ddof=1) / len(groups)
    spread = np.sqrt(variances)
    undefined = np.where(np.abs(means) <= SAME, 0.0, np.nan)
    effects = np.divide(means, spread, out=undefined, where=spread > SAME)
    defined = effects[np.isfinite(effects)]
    return _percentiles(means, confidence), _percentiles(defined, confidence) if len(defined) else None


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
        EvaluationError: Input that :func:`llama2vec.score.sts.paired_scores` refuses, or a setting out of range.
        MissingDependencyError: scipy is not installed.
    """
    return _correlation_interval(_spearman, similarities, gold, confidence, resamples, seed)


def bootstrap_pearson_interval(
    similarities: Numbers, gold: Numbers, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the same of Pearson's correlation; arguments and errors as in :func:`bootstrap_spearman_interval`."""
    return _correlation_interval(_pearson, similarities, gold, confidence, resamples, seed)


def _correlation_interval(
    correlate: Callable[[Rows, Rows], FloatVector],
    similarities: Numbers,
    gold: Numbers,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    similar, wanted = paired_scores(similarities, gold)
    found = [correlate(similar[sample], wanted[sample]) for sample in _samples(len(similar), resamples, seed)]
    correlations = np.concatenate(found)
    defined = correlations[np.isfinite(correlations)]
    if not len(defined):
        raise EvaluationError(f"no sample of {len(similar)} pairs has a correlation; give more pairs")
    return _percentiles(defined, confidence)


def _samples(size: int, resamples: int, seed: int | list[int]) -> Iterator[npt.NDArray[np.int64]]:
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


def _spearman(first: Rows, second: Rows) -> FloatVector:
    """Return [R] correlations of the ranks of [R, N] rows; NaN where a row is constant."""
    try:
        from scipy.stats import rankdata
    except ImportError:
        raise MissingDependencyError("correlations need scipy; pip install 'llama2vec[evaluate]'") from None
    return _pearson(rankdata(first, axis=1), rankdata(second, axis=1))


def _pearson(first: Rows, second: Rows) -> FloatVector:
    """Return [R] correlations of [R, N] rows; NaN where a row is constant."""
    centred = [rows - rows.mean(axis=1, keepdims=True) for rows in (first, second)]
    product = (centred[0] * centred[1]).sum(axis=1)
    norm = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    # Not by the norm: the mean of equal values may be off by rounding.
    varies = (np.ptp(first, axis=1) > 0) & (np.ptp(second, axis=1) > 0) & (norm > 0)
    result: FloatVector = np.divide(product, norm, out=np.full_like(norm, np.nan), where=varies)
    return result

"""Is a difference between two systems real? Bootstrap intervals and paired tests on per-query values.

Functions on ``groups`` take one [Q] array of differences per task, each with at least two queries. One group gives the
ordinary paired tests. With several, the statistic is the mean of the groups' means, so every task counts alike.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals); Smucker, Allan &
Carterette, CIKM 2007 (t-test, randomization); Phipson & Smyth, Permutation p-values should never be zero, 2010 (the
+ 1); Holm, 1979; Lakens, Calculating and reporting effect sizes, 2013 (d_z).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.errors import EvaluationError, MissingDependencyError

FloatVector = npt.NDArray[np.float64]  # [N]
Numbers = Sequence[float] | npt.NDArray[np.floating]  # [N]
Groups = Sequence[FloatVector]  # Per task the [Q] differences of its queries

SAME = 1e-9  # Values at most this far apart count as equal: metrics of one ranking agree to rounding only
CONFIDENCE = 0.95  # Share of the resampled statistics inside every interval
MOST_FLIPS = 10_000_000  # Random sign patterns; more only take longer: so many settle p = 0.05 to within 0.0002
_CHUNK = 2_000_000  # Sampled numbers held at once, 8 bytes each
_ENUMERATED = 16  # Up to this many differing queries, all 2 ** 16 sign patterns are tried
_BYTE = 8


def bootstrap_interval(values: Numbers, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the (low, high) percentile bootstrap interval of the mean of [Q] values, one per query.

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise EvaluationError("an interval needs one finite value per query, and at least one; check the scores")
    means = np.concatenate([numbers[rows].mean(axis=1) for rows in resampled_rows(len(numbers), resamples, seed)])
    return percentiles(means)


def bootstrap_difference(
    groups: Groups, *, resamples: int = 2000, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Return the percentile intervals of the mean difference and of its effect size d_z, from the same samples.

    Every group is resampled by itself; one group's mean gets the interval of :func:`bootstrap_interval`. Samples with a
    mean but no spread, which occur with a handful of queries only, have no d_z and are skipped; None if all are.
    """
    means, variances = np.zeros((2, max(resamples, 0)))
    for number, differences in enumerate(groups):
        # A seed of its own: groups of equal size would otherwise be sampled alike.
        seeds = [seed, number] if number else seed
        done = 0
        for rows in resampled_rows(len(differences), resamples, seeds):
            drawn = differences[rows]
            part = slice(done, done := done + len(rows))
            means[part] += drawn.mean(axis=1) / len(groups)
            variances[part] += drawn.var(axis=1, ddof=1) / len(groups)
    spread = np.sqrt(variances)
    undefined = np.where(np.abs(means) <= SAME, 0.0, np.nan)
    effects = np.divide(means, spread, out=undefined, where=spread > SAME)
    defined = effects[np.isfinite(effects)]
    return percentiles(means), percentiles(defined) if len(defined) else None


def resampled_rows(size: int, resamples: int, seed: int | list[int]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield [R, size] indices drawn with replacement."""
    if resamples < 1:
        raise EvaluationError(f"resamples is {resamples}; draw at least 1 sample")
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        yield generator.integers(0, size, size=(min(rows, resamples - start), size))


def percentiles(statistics: FloatVector) -> tuple[float, float]:
    """Return the two percentiles that enclose 95 % of the statistics."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def query_differences(first: Numbers, second: Numbers) -> FloatVector:
    """Return [Q] differences, second - first, Q ≥ 2; those within rounding (1e-9) become exactly 0.

    >>> query_differences([0.1, 0.3], [0.6, 0.1 + 0.2])
    array([0.5, 0. ])
    """
    pair = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or len(pair[0]) < 2:
        shapes = f"{list(pair[0].shape)} and {list(pair[1].shape)} values"
        raise EvaluationError(f"{shapes} cannot be compared; give one of each system for two queries or more")
    differences: FloatVector = pair[1] - pair[0]
    if not np.isfinite(differences).all():
        raise EvaluationError("a value to compare is not finite; check the scores")
    differences[np.abs(differences) <= SAME] = 0.0
    return differences


def mean_difference(groups: Groups) -> float:
    """Return the mean of the groups' means.

    >>> mean_difference([np.array([1.0, 0.0]), np.array([0.0, 0.0, 0.0])])
    0.25
    """
    return math.fsum(math.fsum(group) / len(group) for group in groups) / len(groups)


def effect_size(groups: Groups) -> float | None:
    """Return d_z: the mean difference over the root of the groups' mean variance; None if every query differs alike.

    >>> effect_size([np.array([1.0, 2.0, 3.0])])
    2.0
    """
    spread = math.sqrt(math.fsum(map(_variance, groups)) / len(groups))
    mean = mean_difference(groups)
    return mean / spread if spread else (None if mean else 0.0)


def t_test(groups: Groups) -> float | None:
    """Return the two-sided p of the paired t-test; for several groups, Welch's test of the mean of their means.

    It is 1 if nothing differs, and None if every query differs by the same amount, so that the test is undefined.
    """
    error, freedom = _standard_error(groups)
    mean = mean_difference(groups)
    if not error:
        return None if mean else 1.0
    stats = scipy_stats()
    return float(
        stats.ttest_1samp(groups[0], 0).pvalue if len(groups) == 1 else 2 * stats.t.sf(abs(mean) / error, freedom)
    )


def detectable_difference(groups: Groups) -> float | None:
    """Return the true difference that a two-sided t-test at 0.05 finds with 80 % power, approximately.

    It is the standard error times t(0.975) + t(0.8); None if the differences do not vary.
    """
    error, freedom = _standard_error(groups)
    if not error:
        return None
    student = scipy_stats().t
    return float(error * (student.ppf(1 - 0.05 / 2, freedom) + student.ppf(0.8, freedom)))


def randomization_test(groups: Groups, *, flips: int = 100_000, seed: int = 0) -> tuple[float, int | None]:
    """Return the two-sided p of the paired randomization test (Fisher's) and the number of random sign patterns.

    p is the share of sign patterns of the differences whose mean is at least as far from 0 as the observed one: of all
    patterns if at most 16 queries differ (then None is returned with p), else (b + 1) / (m + 1) with b of ``flips`` = m
    random patterns. Query order does not matter. ``scipy.stats.permutation_test(…, permutation_type="samples")`` tests
    the same, 40 times slower on 1,000 queries.

    >>> randomization_test([np.array([1.0, 2.0, 3.0])])
    (0.25, None)
    """
    if flips < 1:
        raise EvaluationError(f"flips is {flips}; draw at least 1 sign pattern")
    weighted = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    # Sorted magnitudes make p the same for any query order and either direction; zeros change no sum.
    sizes = np.sort(np.abs(weighted[weighted != 0]))
    # The margin keeps rounding from deciding between equal sums.
    observed = abs(math.fsum(weighted)) - 1e-10 * math.fsum(sizes)
    if len(sizes) <= _ENUMERATED:
        sums = _signed_sums(sizes[:, None])[:, 0]
        return float(np.mean(np.abs(sums) >= observed)), None
    extreme = sum(int((np.abs(sums) >= observed).sum()) for sums in _random_sums(sizes, flips, seed))
    return (extreme + 1) / (flips + 1), flips


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for several comparisons by Holm's step-down method, in the same order.

    A missing p-value counts as one more comparison and stays missing.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = [1.0 if value is None else value for value in p_values]
    corrected: list[float | None] = [None] * len(known)
    highest = 0.0
    for step, place in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        highest = max(highest, min(1.0, (len(known) - step) * known[place]))
        corrected[place] = None if p_values[place] is None else highest
    return corrected


def _variance(group: FloatVector) -> float:
    """Return the unbiased variance, exactly 0 where the values differ by rounding only."""
    return float(group.var(ddof=1)) if np.ptp(group) > SAME else 0.0


def _standard_error(groups: Groups) -> tuple[float, float]:
    """Return the standard error of the mean of the groups' means and its degrees of freedom (Welch-Satterthwaite)."""
    parts = [_variance(group) / len(group) / len(groups) ** 2 for group in groups]
    total = math.fsum(parts)
    if not total:
        return 0.0, 0.0
    # Shares, because squares of tiny numbers could vanish.
    freedom = 1 / math.fsum((part / total) ** 2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
    return math.sqrt(total), freedom


def _signed_sums(blocks: FloatVector) -> FloatVector:
    """Return [2 ** N, G] sums over the N rows of [N, G] numbers, one row for each way to choose their signs."""
    sums = np.zeros((1, blocks.shape[1]))
    for row in blocks:
        sums = np.concatenate([sums + row, sums - row])
    return sums


def _random_sums(sizes: FloatVector, flips: int, seed: int) -> Iterable[FloatVector]:
    """Yield ``flips`` sums of numbers with random signs: a random byte looks up the signs of eight numbers."""
    groups = -(-len(sizes) // _BYTE)
    tables = _signed_sums(np.pad(sizes, (0, groups * _BYTE - len(sizes))).reshape(_BYTE, groups))
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // groups)
    for start in range(0, flips, rows):
        signs = generator.integers(0, 2**_BYTE, size=(min(rows, flips - start), groups), dtype=np.uint8)
        yield np.take_along_axis(tables, signs.astype(np.intp), axis=0).sum(axis=1)


def scipy_stats() -> Any:
    """Return ``scipy.stats``, or raise a MissingDependencyError."""
    try:
        from scipy import stats
    except ImportError:
        raise MissingDependencyError("this needs scipy; pip install 'llama2vec[evaluate]'") from None
    return stats

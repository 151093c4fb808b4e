"""Is one system better than another, or was it the luck of the queries? Tests on per-query differences.

Every function takes groups: per task the [Q] differences of its queries. With one group the tests are the ordinary
paired ones. With several, the mean difference is the mean of the groups' means, so each task counts alike however many
queries it has, and the tests are of that mean. A group needs two queries or more.

Sources: Smucker, Allan & Carterette, A comparison of statistical significance tests for information retrieval
evaluation, CIKM 2007 (t-test, randomization); Phipson & Smyth, Permutation p-values should never be zero, 2010 (the
+ 1); Holm, A simple sequentially rejective multiple test procedure, 1979; Lakens, Calculating and reporting effect
sizes, 2013 (d_z); Sakai, Laboratory Experiments in Information Retrieval, 2018 (which to report).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.score.significance import SAME
from llama2vec.score.sts import FloatVector, Numbers

Groups = Sequence[npt.NDArray[np.float64]]
"""Per task the [Q] differences of its queries."""

# Sums of flipped differences held at once, 8 bytes each.
_CHUNK = 2_000_000
# With no more differing queries than this every sign pattern is tried: 2 ** 16 of them.
_ENUMERATED = 16
_BYTE = 8


def query_differences(first: Numbers, second: Numbers) -> FloatVector:
    """Return [Q] differences, second - first; one that is rounding alone (at most 1e-9) is exactly 0.

    >>> query_differences([0.1, 0.3], [0.6, 0.1 + 0.2])
    array([0.5, 0. ])

    Raises:
        EvaluationError: Different lengths, fewer than two queries, or a value that is not finite.
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
    """Return d_z: the mean difference over the standard deviation of differences (root of the groups' mean variance).

    >>> effect_size([np.array([1.0, 2.0, 3.0])])
    2.0

    Returns:
        0 where nothing differs; None where every query differs by the same amount, which no d_z describes.
    """
    spread = math.sqrt(math.fsum(map(_variance, groups)) / len(groups))
    mean = mean_difference(groups)
    return mean / spread if spread else (None if mean else 0.0)


def t_test(groups: Groups) -> float | None:
    """Return the two-sided p of the paired t-test; of several groups, Welch's for the mean of their means.

    Returns:
        1 where nothing differs; None where every query differs by the same amount: the test is not defined there.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    error, freedom = _standard_error(groups)
    mean = mean_difference(groups)
    if not error:
        return None if mean else 1.0
    return float(2 * _t_distribution().sf(abs(mean) / error, freedom))


def detectable_difference(groups: Groups, *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Return about how big a true difference must be for a two-sided t-test at ``alpha`` to find it.

    So many queries with such a spread find a difference of that size with probability ``power``: the standard error
    times t(1 - alpha / 2) + t(power).

    Returns:
        None where the differences have no spread to judge from.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    error, freedom = _standard_error(groups)
    if not error:
        return None
    distribution = _t_distribution()
    return float(error * (distribution.ppf(1 - alpha / 2, freedom) + distribution.ppf(power, freedom)))


def randomization_test(groups: Groups, *, flips: int = 100_000, seed: int = 0) -> tuple[float, int | None]:
    """Return the two-sided p of the paired randomization test (Fisher's), and how many random patterns it rests on.

    If two systems were alike, each difference could as well have had the other sign. p is the share of sign patterns
    whose mean is at least as far from 0 as the one observed: over all of them where at most 16 queries differ, else
    (b + 1) / (m + 1) with b of m random patterns, which is never 0. The order of the queries does not matter.

    >>> randomization_test([np.array([1.0, 2.0, 3.0])])
    (0.25, None)

    Args:
        groups: Per task the [Q] differences of its queries.
        flips: m, how many random patterns are drawn.
        seed: The same seed gives the same p.

    Returns:
        p, and m or None where every pattern was tried.

    Raises:
        EvaluationError: ``flips`` is below 1.
    """
    if flips < 1:
        raise EvaluationError(f"flips is {flips}; draw at least 1 sign pattern")
    weighted = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    # Queries without a difference change no sum. Sorted sizes make p the same for any order and either direction.
    sizes = np.sort(np.abs(weighted[weighted != 0]))
    # Rounding must not decide between sums that are equal.
    observed = abs(math.fsum(weighted)) - 1e-10 * math.fsum(sizes)
    if len(sizes) <= _ENUMERATED:
        sums = _signed_sums(sizes[:, None])[:, 0]
        return float(np.mean(np.abs(sums) >= observed)), None
    extreme = sum(int((np.abs(sums) >= observed).sum()) for sums in _random_sums(sizes, flips, seed))
    return (extreme + 1) / (flips + 1), flips


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for several comparisons (Holm's step-down), in the same order.

    They bound the chance of even one false finding among all; each is at least as big as it was. A comparison without
    a p-value counts as one more comparison and stays without.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: _or_one(p_values[place]))
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - step) * _or_one(p_values[place])))
        corrected[place] = None if p_values[place] is None else highest
    return corrected


def _or_one(p_value: float | None) -> float:
    return 1.0 if p_value is None else p_value


def _variance(group: FloatVector) -> float:
    """Return the unbiased variance, exactly 0 where the values differ by rounding only."""
    return float(group.var(ddof=1)) if np.ptp(group) > SAME else 0.0


def _standard_error(groups: Groups) -> tuple[float, float]:
    """Return the standard error of the mean of the groups' means and its degrees of freedom (Welch-Satterthwaite)."""
    parts = [_variance(group) / len(group) / len(groups) ** 2 for group in groups]
    total = math.fsum(parts)
    if not total:
        return 0.0, 0.0
    # Shares, not squares of tiny numbers, which could vanish.
    freedom = 1 / math.fsum((part / total) ** 2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
    return math.sqrt(total), freedom


def _signed_sums(blocks: FloatVector) -> FloatVector:
    """Return [2 ** N, G] sums over the N rows of [N, G] numbers, one row for each way to choose their signs."""
    sums = np.zeros((1, blocks.shape[1]))
    for row in blocks:
        sums = np.concatenate([sums + row, sums - row])
    return sums


def _random_sums(sizes: FloatVector, flips: int, seed: int) -> Iterable[FloatVector]:
    """Yield sums of numbers with random signs, ``flips`` in all: a random byte looks up the signs of eight numbers."""
    groups = -(-len(sizes) // _BYTE)
    tables = _signed_sums(np.pad(sizes, (0, groups * _BYTE - len(sizes))).reshape(_BYTE, groups))
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // groups)
    for start in range(0, flips, rows):
        signs = generator.integers(0, 2**_BYTE, size=(min(rows, flips - start), groups), dtype=np.uint8)
        yield np.take_along_axis(tables, signs.astype(np.intp), axis=0).sum(axis=1)


def _t_distribution() -> Any:
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingDependencyError("comparing runs needs scipy; pip install 'llama2vec[evaluate]'") from None
    return t

"""Bootstrap intervals and paired tests, against scipy, brute force and computations by hand."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from llama2vec.errors import EvaluationError
from llama2vec.score import significance
from llama2vec.score.significance import (
    bootstrap_difference,
    bootstrap_interval,
    detectable_difference,
    effect_size,
    holm,
    mean_difference,
    query_differences,
    randomization_test,
    t_test,
)

VALUES = np.random.default_rng(3).normal(0.5, 0.1, size=400)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    low, high = bootstrap_interval(VALUES)
    half = 1.96 * VALUES.std() / math.sqrt(len(VALUES))
    assert low == pytest.approx(VALUES.mean() - half, abs=half / 8)
    assert high == pytest.approx(VALUES.mean() + half, abs=half / 8)


def test_the_interval_equals_resampling_one_by_one() -> None:
    values = list(VALUES[:30])
    generator = np.random.default_rng(7)
    means = [np.mean([values[at] for at in row]) for row in generator.integers(0, 30, size=(200, 30))]
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(values, resamples=200, seed=7) == pytest.approx(tuple(expected))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    assert bootstrap_interval(VALUES) == bootstrap_interval(VALUES)
    assert bootstrap_interval(VALUES) != bootstrap_interval(VALUES, seed=1)


def test_sampling_in_parts_draws_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CHUNK", 70)
    parts = [sample.shape for sample in significance.resampled_rows(30, 5, 0)]
    assert parts == [(2, 30), (2, 30), (1, 30)]


@pytest.mark.parametrize(
    ("values", "setting", "problem"),
    [
        ([], {}, "at least one"),
        ([0.1, math.nan], {}, "finite"),
        ([0.1], {"resamples": 0}, "resamples is 0"),
    ],
)
def test_values_and_settings_out_of_range_are_refused(
    values: list[float], setting: dict[str, int], problem: str
) -> None:
    with pytest.raises(EvaluationError, match=problem):
        bootstrap_interval(values, **setting)


Vector = npt.NDArray[np.float64]


def drawn(size: int, seed: int, mean: float = 0.05) -> Vector:
    return np.random.default_rng(seed).normal(mean, 0.2, size=size)


def brute_force(groups: list[Vector]) -> float:
    """Fisher's test by its definition: every sign pattern in turn."""
    observed = abs(sum(group.mean() for group in groups))
    extreme = 0
    patterns = list(itertools.product((1, -1), repeat=sum(map(len, groups))))
    for pattern in patterns:
        signs = iter(pattern)
        means = [np.mean([next(signs) * value for value in group]) for group in groups]
        extreme += abs(sum(means)) >= observed - 1e-12
    return extreme / len(patterns)


@pytest.mark.parametrize("size", [2, 5, 40, 1000])
def test_the_t_test_is_scipys(size: int) -> None:
    first, second = drawn(size, 1), drawn(size, 2, 0.1)
    expected = stats.ttest_rel(second, first).pvalue
    assert t_test([query_differences(first, second)]) == pytest.approx(expected, rel=1e-9)


def test_the_t_test_of_two_tasks_is_welchs() -> None:
    # The mean of two means is half the difference of one and the negated other: Welch's test of two samples.
    one, other = drawn(12, 3), 3 * drawn(50, 4)
    assert t_test([one, other]) == pytest.approx(stats.ttest_ind(one, -other, equal_var=False).pvalue, rel=1e-9)


@pytest.mark.parametrize(("size", "seed"), [(2, 0), (5, 1), (9, 2), (12, 3)])
def test_the_exact_randomization_test_is_scipys_and_brute_force(size: int, seed: int) -> None:
    # Rounded, so that sums tie.
    differences = np.round(drawn(size, seed, 0.08), 1)
    expected = stats.permutation_test(
        (differences,), lambda sample, axis: np.mean(sample, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert randomization_test([differences]) == (pytest.approx(expected.pvalue, abs=1e-12), None)
    assert brute_force([differences]) == pytest.approx(expected.pvalue, abs=1e-12)


def test_the_randomization_test_of_several_tasks_is_brute_force_over_the_mean_of_means() -> None:
    groups = [drawn(3, 5, 0.1), drawn(7, 6, 0.1)]
    assert randomization_test(groups)[0] == pytest.approx(brute_force(groups), abs=1e-12)
    assert randomization_test(groups)[0] != pytest.approx(randomization_test([np.concatenate(groups)])[0])


def test_random_patterns_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = drawn(16, 8)
    exact, every = randomization_test([differences])
    monkeypatch.setattr(significance, "_ENUMERATED", 4)
    sampled, flips = randomization_test([differences], flips=40_000)
    assert (every, flips) == (None, 40_000)
    assert 0.02 < exact < 0.9
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_random_patterns_are_counted_with_the_observed_one_and_never_give_zero() -> None:
    assert randomization_test([drawn(60, 9, 3.0)], flips=199) == (1 / 200, 199)


def test_drawing_in_parts_of_any_size_draws_every_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CHUNK", 70)
    sums = [part.shape for part in significance._random_sums(drawn(50, 0), 23, 0)]
    assert sums == [(10,), (10,), (3,)]


def test_every_number_gets_a_sign_of_its_own() -> None:
    # Powers of two: each sum tells its signs.
    numbers = 2.0 ** np.arange(19)
    sums = np.concatenate(list(significance._random_sums(numbers, 4000, 1)))
    bits = (((sums + numbers.sum()) / 2).astype(int)[:, None] >> np.arange(19)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.04
    assert np.abs(np.corrcoef(bits.T) - np.eye(19)).max() < 0.09


def test_the_seed_decides_random_patterns() -> None:
    differences = [drawn(30, 11)]
    results = [randomization_test(differences, flips=500, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("test", ["t", "randomization"])
def test_under_the_null_one_in_twenty_is_found(test: str) -> None:
    # Skewed values with many zeros and repeated values, as reciprocal ranks are; both systems drawn alike.
    generator = np.random.default_rng(12)
    values = generator.choice([0.0, 0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0], size=(600, 2, 40))
    groups = [[query_differences(first, second)] for first, second in values]
    if test == "t":
        p_values = [t_test(group) or 0.0 for group in groups]
    else:
        p_values = [randomization_test(group, flips=400)[0] for group in groups]
    found = sum(p_value < 0.05 for p_value in p_values)
    # Outside of this one time in a thousand, were the rate 0.05.
    assert stats.binom.ppf(0.0005, 600, 0.05) <= found <= stats.binom.ppf(0.9995, 600, 0.05)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.05)


def test_holm_is_the_hand_computation() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_an_undefined_p_value_counts_as_a_comparison_and_stays_undefined() -> None:
    assert holm([0.01, None]) == [0.02, None]


def test_the_effect_size_is_mean_over_standard_deviation() -> None:
    one, other = drawn(20, 13), drawn(30, 14)
    assert effect_size([one]) == pytest.approx(one.mean() / one.std(ddof=1))
    spread = math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    assert effect_size([one, other]) == pytest.approx((one.mean() + other.mean()) / 2 / spread)


def test_each_task_counts_alike_whatever_its_queries() -> None:
    assert mean_difference([np.full(1000, 0.1), np.array([0.5, 0.7])]) == pytest.approx(0.35)


def test_the_interval_of_one_tasks_mean_is_the_ordinary_one_and_resampling_one_by_one_gives_that_of_d_z() -> None:
    differences = drawn(25, 15)
    mean, effect = bootstrap_difference([differences], resamples=300, seed=3)
    assert mean == pytest.approx(bootstrap_interval(differences, resamples=300, seed=3))
    rows = np.random.default_rng(3).integers(0, 25, size=(300, 25))
    effects = [differences[row].mean() / differences[row].std(ddof=1) for row in rows]
    assert effect == pytest.approx(tuple(np.quantile(effects, [0.025, 0.975])))


def test_the_interval_over_tasks_resamples_each_task_by_itself() -> None:
    # Far apart, but steady within: drawn across tasks, the mean would swing between -1 and 1.
    groups = [1 + 0.01 * drawn(50, 16), -1 + 0.01 * drawn(50, 17)]
    (low, high), _ = bootstrap_difference(groups)
    assert high - low < 0.01
    # Alike drawn groups would cancel out.
    mirrored = [drawn(50, 18), -drawn(50, 18)]
    (low, high), _ = bootstrap_difference(mirrored)
    assert high - low > 0.05


def test_resampling_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [drawn(25, 19), drawn(9, 20)]
    whole = bootstrap_difference(groups, resamples=40)
    monkeypatch.setattr(significance, "_CHUNK", 60)
    assert bootstrap_difference(groups, resamples=40) == whole


@pytest.mark.parametrize("resamples", [0, -5])
def test_settings_out_of_range_are_refused(resamples: int) -> None:
    with pytest.raises(EvaluationError, match=f"resamples is {resamples}"):
        bootstrap_difference([drawn(5, 0)], resamples=resamples)
    with pytest.raises(EvaluationError, match="flips is 0"):
        randomization_test([drawn(5, 0)], flips=0)


@pytest.mark.parametrize("size", [8, 100])
def test_the_detectable_difference_is_found_four_times_in_five(size: int) -> None:
    generator = np.random.default_rng(21)
    known = detectable_difference([stats.norm.ppf((np.arange(size) + 0.5) / size)])
    spread = stats.norm.ppf((np.arange(size) + 0.5) / size).std(ddof=1)
    assert known is not None
    samples = generator.normal(known / spread, 1.0, size=(2000, size))
    found = np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.04)


def test_no_difference_gives_p_1_and_effect_0_without_a_warning() -> None:
    nothing = [query_differences([0.1 + 0.2, 0.5], [0.3, 0.5])]
    assert (t_test(nothing), randomization_test(nothing), effect_size(nothing)) == (1.0, (1.0, None), 0.0)
    assert bootstrap_difference(nothing) == ((0.0, 0.0), (0.0, 0.0))
    assert detectable_difference(nothing) is None


def test_the_same_difference_everywhere_has_no_t_test_and_no_effect_size() -> None:
    # 0.3 - 0.2 and 0.4 - 0.3 are not the same float.
    same = [query_differences([0.2, 0.3, 0.4], [0.3, 0.4, 0.5])]
    assert (t_test(same), effect_size(same), detectable_difference(same)) == (None, None, None)
    assert randomization_test(same) == (0.25, None)
    interval, effect = bootstrap_difference(same)
    assert interval == (pytest.approx(0.1), pytest.approx(0.1))
    assert effect is None


def test_a_few_differing_queries_among_many_have_finite_intervals() -> None:
    few = np.zeros(300)
    few[:2] = 0.5, 1.0
    (low, high), effect = bootstrap_difference([few])
    assert low == 0.0 < high
    assert effect is not None
    assert np.isfinite(effect).all()


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ([0.1], [0.2], "two queries or more"),
        ([0.1, 0.2], [0.1], "cannot be compared"),
        ([0.1, math.nan], [0.1, 0.2], "not finite"),
        ([0.1, 0.2], [0.1, math.inf], "not finite"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(first: list[float], second: list[float], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        query_differences(first, second)

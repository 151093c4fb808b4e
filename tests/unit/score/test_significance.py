import math

import numpy as np
import pytest
from scipy import stats

from llama2vec.errors import EvaluationError
from llama2vec.score import significance
from llama2vec.score.significance import bootstrap_interval, bootstrap_pearson_interval, bootstrap_spearman_interval

VALUES = np.random.default_rng(3).normal(0.5, 0.1, size=400)
GOLD = np.random.default_rng(4).normal(size=300)
SIMILAR = GOLD + np.random.default_rng(5).normal(size=300)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    low, high = bootstrap_interval(VALUES)
    half = 1.96 * VALUES.std() / math.sqrt(len(VALUES))
    assert low == pytest.approx(VALUES.mean() - half, abs=half / 8)
    assert high == pytest.approx(VALUES.mean() + half, abs=half / 8)


def test_the_interval_equals_resampling_one_by_one() -> None:
    values = list(VALUES[:30])
    generator = np.random.default_rng(7)
    means = [np.mean([values[at] for at in row]) for row in generator.integers(0, 30, size=(200, 30))]
    expected = np.quantile(means, [0.05, 0.95])
    assert bootstrap_interval(values, confidence=0.9, resamples=200, seed=7) == pytest.approx(tuple(expected))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    assert bootstrap_interval(VALUES) == bootstrap_interval(VALUES)
    assert bootstrap_interval(VALUES) != bootstrap_interval(VALUES, seed=1)


def test_more_confidence_means_a_wider_interval() -> None:
    narrow, wide = bootstrap_interval(VALUES, confidence=0.5), bootstrap_interval(VALUES, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_sampling_in_parts_draws_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CHUNK", 70)
    parts = [sample.shape for sample in significance._samples(30, 5, 0)]
    assert parts == [(2, 30), (2, 30), (1, 30)]


@pytest.mark.parametrize(
    ("values", "setting", "problem"),
    [
        ([], {}, "at least one"),
        ([0.1, math.nan], {}, "finite"),
        ([0.1], {"resamples": 0}, "resamples is 0"),
        ([0.1], {"confidence": 95}, "confidence is 95"),
    ],
)
def test_values_and_settings_out_of_range_are_refused(
    values: list[float], setting: dict[str, int], problem: str
) -> None:
    with pytest.raises(EvaluationError, match=problem):
        bootstrap_interval(values, **setting)


def test_the_spearman_interval_equals_resampling_with_scipy() -> None:
    similar, gold = np.round(SIMILAR[:40], 1), np.round(GOLD[:40], 1)
    rows = np.random.default_rng(2).integers(0, 40, size=(150, 40))
    correlations = [stats.spearmanr(similar[row], gold[row]).statistic for row in rows]
    expected = np.quantile(correlations, [0.025, 0.975])
    assert bootstrap_spearman_interval(similar, gold, resamples=150, seed=2) == pytest.approx(tuple(expected))


def test_the_spearman_interval_holds_the_correlation() -> None:
    low, high = bootstrap_spearman_interval(SIMILAR, GOLD, resamples=300)
    assert low < stats.spearmanr(SIMILAR, GOLD).statistic < high


def test_constant_samples_of_a_few_pairs_are_left_out() -> None:
    assert bootstrap_spearman_interval([0.1, 0.2], [1, 2], resamples=50) == (1.0, 1.0)
    with pytest.raises(EvaluationError, match="all 1"):
        bootstrap_spearman_interval([0.1, 0.2], [1, 1])


def test_the_pearson_interval_equals_resampling_with_scipy() -> None:
    rows = np.random.default_rng(2).integers(0, 40, size=(150, 40))
    correlations = [stats.pearsonr(SIMILAR[row], GOLD[row]).statistic for row in rows]
    expected = np.quantile(correlations, [0.025, 0.975])
    found = bootstrap_pearson_interval(SIMILAR[:40], GOLD[:40], resamples=150, seed=2)
    assert found == pytest.approx(tuple(expected))
    # A constant sample whose mean is off by rounding is still constant.
    assert bootstrap_pearson_interval([0.1, 0.3], [0.1, 0.7], resamples=50) == pytest.approx((1.0, 1.0))

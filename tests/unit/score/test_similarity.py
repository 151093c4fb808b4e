import math
import sys

import numpy as np
import pytest
from scipy import stats

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.score.similarity import correlation_interval, score_similarities

GOLD = np.random.default_rng(4).normal(size=300)
SIMILAR = GOLD + np.random.default_rng(5).normal(size=300)


def test_correlations_equal_values_computed_by_hand() -> None:
    # Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * 2 / (4 * 15) = 0.8.
    scores = score_similarities(np.array([0.1, 0.2, 0.3, 0.9], dtype=np.float32), [0, 3, 1, 5])
    assert scores["spearman"] == pytest.approx(0.8)
    first, second = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.0, 3.0, 1.0, 5.0])
    first, second = first - first.mean(), second - second.mean()
    expected = float(first @ second / math.sqrt((first @ first) * (second @ second)))
    assert scores["pearson"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("similarities", "gold", "problem"),
    [
        ([0.1, 0.2], [1.0], r"\[2\] similarities and \[1\] gold scores do not pair up"),
        ([0.1], [1.0], "two pairs or more"),
        ([], [], "two pairs or more"),
        ([[0.1, 0.2]], [[1.0, 2.0]], "do not pair up"),
        ([0.1, math.nan], [1.0, 2.0], "the similarities hold nan at pair 2"),
        ([0.1, 0.2], [math.inf, 2.0], "the gold scores hold inf at pair 1"),
        ([0.5, 0.5], [1.0, 2.0], "the similarities are all 0.5"),
        ([0.1, 0.2], [3.0, 3.0], "the gold scores are all 3"),
    ],
)
def test_input_without_a_correlation_is_refused(similarities: list[float], gold: list[float], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        score_similarities(similarities, gold)


def test_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llama2vec\[evaluate\]'"):
        score_similarities([0.1, 0.2], [1, 2])


def test_the_spearman_interval_equals_resampling_with_scipy() -> None:
    similar, gold = np.round(SIMILAR[:40], 1), np.round(GOLD[:40], 1)
    rows = np.random.default_rng(2).integers(0, 40, size=(150, 40))
    correlations = [stats.spearmanr(similar[row], gold[row]).statistic for row in rows]
    expected = np.quantile(correlations, [0.025, 0.975])
    assert correlation_interval("spearman", similar, gold, resamples=150, seed=2) == pytest.approx(tuple(expected))


def test_the_spearman_interval_holds_the_correlation() -> None:
    low, high = correlation_interval("spearman", SIMILAR, GOLD, resamples=300)
    assert low < stats.spearmanr(SIMILAR, GOLD).statistic < high


def test_constant_samples_of_a_few_pairs_are_skipped() -> None:
    assert correlation_interval("spearman", [0.1, 0.2], [1, 2], resamples=50) == pytest.approx((1.0, 1.0))
    with pytest.raises(EvaluationError, match="all 1"):
        correlation_interval("spearman", [0.1, 0.2], [1, 1])


def test_the_pearson_interval_equals_resampling_with_scipy() -> None:
    rows = np.random.default_rng(2).integers(0, 40, size=(150, 40))
    correlations = [stats.pearsonr(SIMILAR[row], GOLD[row]).statistic for row in rows]
    expected = np.quantile(correlations, [0.025, 0.975])
    found = correlation_interval("pearson", SIMILAR[:40], GOLD[:40], resamples=150, seed=2)
    assert found == pytest.approx(tuple(expected))
    # A constant sample whose mean is off by rounding is still constant.
    assert correlation_interval("pearson", [0.1, 0.3], [0.1, 0.7], resamples=50) == pytest.approx((1.0, 1.0))

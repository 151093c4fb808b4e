import math
import sys

import numpy as np
import pytest

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.score.sts import score_similarities


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

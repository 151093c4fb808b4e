"""How well similarities order and match people's scores (STS)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama2vec.errors import EvaluationError, MissingDependencyError

FloatVector = npt.NDArray[np.float64]
"""[N] float64, one value per pair."""

Numbers = Sequence[float] | npt.NDArray[np.floating]
"""[N] numbers, one per pair."""


def score_similarities(similarities: Numbers, gold: Numbers) -> dict[str, float]:
    """Return ``spearman`` and ``pearson`` correlation of similarities with gold scores, each in [-1, 1].

    >>> score_similarities([0.1, 0.4, 0.9], [0.0, 2.0, 5.0])["spearman"]
    1.0

    Args:
        similarities: [N] what the system says.
        gold: [N] what people said, in the same order.

    Raises:
        EvaluationError: Different lengths, fewer than two pairs, a value that is not finite, or constant input
            (no correlation is defined).
        MissingDependencyError: scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise MissingDependencyError("correlations need scipy; pip install 'llama2vec[evaluate]'") from None
    similar, wanted = paired_scores(similarities, gold)
    spearman, pearson = stats.spearmanr(similar, wanted).statistic, stats.pearsonr(similar, wanted).statistic
    return {"spearman": float(spearman), "pearson": float(pearson)}


def paired_scores(similarities: Numbers, gold: Numbers) -> tuple[FloatVector, FloatVector]:
    """Return both as [N] float64, checked: same length N ≥ 2, finite, not constant.

    Raises:
        EvaluationError: One of these does not hold.
    """
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

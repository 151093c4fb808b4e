import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.records import Run
from llama2vec.score.metrics import DEFAULT_METRICS, correlation_interval, evaluate_run, score_similarities


def test_a_judged_query_that_the_run_lacks_scores_zero() -> None:
    qrels = {"q1": {"d1": 1}, "q2": {"d1": 1}, "q3": {"d1": 1}, "never judged": {}}
    report = evaluate_run(Run({"q1": {"d1": 1.0}, "q3": {}, "extra": {"d1": 1.0}}, "ours"), qrels, task="tiny/test")
    assert (report.task, report.system) == ("tiny/test", "ours")
    assert set(report.metrics) == set(DEFAULT_METRICS)
    for measure in DEFAULT_METRICS:
        assert report.per_query[measure] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
        assert report.metrics[measure] == pytest.approx(1 / 3)
        low, high = report.intervals[measure]
        assert 0 <= low < 1 / 3 < high <= 1
    assert report.settings["judged_queries"] == 3
    assert report.settings["unanswered_queries"] == 2


def test_graded_gains_count_as_trec_eval_counts_them() -> None:
    # DCG = 0 + 1/log2(3) + 2/log2(4); the ideal order is 2, 1.
    report = evaluate_run(Run({"q": {"b": 3.0, "a": 2.0, "c": 1.0}}), {"q": {"a": 1, "b": -1, "c": 2}})
    expected = (1 / math.log2(3) + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert report.metrics["nDCG@10"] == pytest.approx(expected)
    assert report.metrics["MRR@10"] == 0.5


def test_ties_are_ordered_by_ascending_passage_id() -> None:
    # trec_eval on its own puts the larger id first.
    run = Run({"q": {"b": 1.0, "a": 1.0}})
    assert evaluate_run(run, {"q": {"a": 1}}).metrics["MRR@10"] == 1.0
    assert evaluate_run(run, {"q": {"b": 1}}).metrics["MRR@10"] == 0.5


def test_scores_that_single_precision_cannot_part_keep_their_order() -> None:
    run = Run({"q": {"a": 1.0, "b": 1.0 + 1e-12}})
    assert evaluate_run(run, {"q": {"b": 1}}).metrics["nDCG@10"] == 1.0


def test_negative_gains_alone_do_not_crash_trec_eval() -> None:
    report = evaluate_run(Run({"q": {"a": 1.0}}), {"q": {"a": -100, "b": -1}}, metrics=["nDCG@10", "AP", "R@100"])
    assert set(report.metrics.values()) == {0.0}


def test_a_recall_deeper_than_the_run_is_no_mistake() -> None:
    assert evaluate_run(Run({"q": {"a": 1.0}}), {"q": {"a": 1, "b": 1}}, metrics=["R@1000"]).metrics == {"R@1000": 0.5}


def test_no_common_query_is_refused() -> None:
    with pytest.raises(EvaluationError, match="run 'bm25': 1 query in the run and 1 judged have no id in common"):
        evaluate_run(Run({"q1": {"d": 1.0}}, "bm25"), {"q2": {"d": 1}, "q1": {}})


@pytest.mark.parametrize(
    ("run", "qrels", "said"),
    [
        (Run({"q": {"a": 1.0}}), {"q": {"a": 1.5}}, "passage 'a' has the gain 1.5 for query 'q'; a gain is a whole"),
        (Run({"q": {"a": 1.0}}), {"q": {"a": None}}, "has the gain None for query 'q'"),
        (Run({"q": {"a": 1.0}}), {"q": {0: 1}}, "the judgments: the id 0 is of type int; ids are strings: write '0'"),
        (Run({"q": {0: 1.0}}), {"q": {"0": 1}}, "run 'llama2vec': the id 0 is of type int"),
        (Run({1: {"a": 1.0}}), {"1": {"a": 1}}, "run 'llama2vec': the id 1 is of type int"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1}}, "run is of type dict; give a Run, as Retriever.search returns it"),
        (Run({"q": {"a": 1.0}}), {"q": ["a"]}, "query 'q' has a value of type list; give {passage id: value}"),
        (Run({"q": {"a": 1.0}}), [("q", "a", 1)], "the judgments: of type list; give"),
    ],
)
def test_what_cannot_be_scored_is_one_line(run: Any, qrels: Any, said: str) -> None:
    with pytest.raises(EvaluationError, match=re.escape(said)):
        evaluate_run(run, qrels)


def test_gains_of_numpy_and_whole_floats_count() -> None:
    run = Run({"q": {"a": 1.0, "b": 0.5}})
    expected = evaluate_run(run, {"q": {"a": 1, "b": 2}}).metrics
    assert evaluate_run(run, {"q": {"a": np.int64(1), "b": 2.0}}).metrics == expected  # type: ignore[dict-item]
    with pytest.raises(EvaluationError, match=r"metrics is one string; put it into a list: \['nDCG@10'\]"):
        evaluate_run(run, {"q": {"a": 1}}, metrics="nDCG@10")


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(EvaluationError, match="passage 'd' of query 'q' has the score nan"):
        evaluate_run(Run({"q": {"d": math.nan}}), {"q": {"d": 1}})


@pytest.mark.parametrize(
    ("measure", "hint"),
    [
        ("ndcg@10", r"\(did you mean nDCG\?\)"),
        ("Recal@5", r"\(did you mean R\?\)"),
        ("nDCG@0", "; write it like nDCG@10"),
        ("nDCG@x", "; write it like nDCG@10"),
        ("R", "; write it like"),
        ("", "; write it like"),
        ("ERR@10", "; write it like"),
    ],
)
def test_an_unknown_measure_is_refused_with_a_hint(measure: str, hint: str) -> None:
    with pytest.raises(EvaluationError, match=f"no metric '{measure}'.*{hint}|no metric '{measure}'{hint}"):
        evaluate_run(Run({"q": {"d": 1.0}}), {"q": {"d": 1}}, metrics=[measure])


def test_no_measure_at_all_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no metric to compute"):
        evaluate_run(Run({"q": {"d": 1.0}}), {"q": {"d": 1}}, metrics=[])


def test_missing_ir_measures_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llama2vec\[evaluate\]'"):
        evaluate_run(Run({"q": {"d": 1.0}}), {"q": {"d": 1}})


def test_neither_reading_nor_evaluating_imports_torch() -> None:
    code = """
import sys
import llama2vec.data.tasks.beir, llama2vec.data.corpus.passages, llama2vec.data.tasks.sts, llama2vec.data.tasks.trec
import llama2vec.score.metrics, llama2vec.score.results, llama2vec.score.significance, llama2vec.score.tasks
from llama2vec.records import Run
llama2vec.score.metrics.evaluate_run(Run({"q": {"d": 1.0}}), {"q": {"d": 1}})
llama2vec.score.metrics.score_similarities([0.1, 0.2], [1, 2])
heavy = {"torch", "transformers", "datasets"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


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
        ([0.1], [1.0], "^1 pair cannot correlate; give two pairs or more"),
        ([], [], "two pairs or more"),
        ([[0.1, 0.2]], [[1.0, 2.0]], "do not pair up"),
        ([0.1, math.nan], [1.0, 2.0], "the similarities hold nan at pair 2"),
        ([0.1, 0.2], [math.inf, 2.0], "the gold scores hold inf at pair 1"),
        ([0.5, 0.5], [1.0, 2.0], "the similarities are all 0.5, .*; check the encoder"),
        ([0.1, 0.2], [3.0, 3.0], "the gold scores are all 3, .*; give scores that differ"),
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

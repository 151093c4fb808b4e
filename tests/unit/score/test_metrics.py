import math
import subprocess
import sys

import pytest

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.records import Run
from llama2vec.score.metrics import DEFAULT_METRICS, evaluate_run


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
    with pytest.raises(
        EvaluationError, match="run 'bm25': 1 queries in the run and 1 judged ones have no id in common"
    ):
        evaluate_run(Run({"q1": {"d": 1.0}}, "bm25"), {"q2": {"d": 1}, "q1": {}})


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
import llama2vec.data.beir, llama2vec.data.corpus, llama2vec.data.sts, llama2vec.data.trec
import llama2vec.score.metrics, llama2vec.score.results, llama2vec.score.significance, llama2vec.score.similarity
from llama2vec.records import Run
llama2vec.score.metrics.evaluate_run(Run({"q": {"d": 1.0}}), {"q": {"d": 1}})
llama2vec.score.similarity.score_similarities([0.1, 0.2], [1, 2])
heavy = {"torch", "transformers", "datasets"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

"""Equal scores: trec_eval's order, and runs that it ranks as they are ranked here."""

from __future__ import annotations

import random
from pathlib import Path

import ir_measures
import pytest

from llama2vec.data.settings import Ties
from llama2vec.data.tasks.ties import kept_apart, orders_differ, tied_queries
from llama2vec.data.tasks.trec import read_run, write_run
from llama2vec.records import Run
from llama2vec.score.metrics import evaluate_run

METRICS = ("nDCG@10", "AP", "R@10", "P@5")
# Equal ones, some that single precision cannot tell apart, and some beyond it.
SCORES = (0.5, 0.5 + 1e-12, 0.5 - 2e-8, 0.25, 0.0, -0.0, -3.0, 1e-12, 1e30, 1e300, 1e299, 7e-46)


@pytest.fixture(scope="module")
def qrels() -> dict[str, dict[str, int]]:
    draws = random.Random(1)
    return {f"q{n}": {f"d{m}": draws.choice([0, 0, 1, 2]) for m in range(20)} for n in range(30)}


@pytest.fixture(scope="module")
def run(qrels: dict[str, dict[str, int]]) -> Run:
    draws = random.Random(2)
    return Run({query: {f"d{m}": draws.choice(SCORES) for m in range(40)} for query in qrels}, "tied")


def by_trec_eval(run: object, qrels: dict[str, dict[str, int]]) -> dict[str, float]:
    found = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in METRICS], qrels, run)
    return {str(metric): value for metric, value in found.items()}


def test_a_run_scores_as_trec_eval_scores_it(run: Run, qrels: dict[str, dict[str, int]]) -> None:
    ours = evaluate_run(kept_apart(run, "trec_eval"), qrels, metrics=METRICS).metrics
    assert ours == pytest.approx(by_trec_eval(run.results, qrels), abs=1e-12)
    assert ours != pytest.approx(evaluate_run(run, qrels, metrics=METRICS).metrics, abs=1e-3)


@pytest.mark.parametrize("ties", ["id", "trec_eval"])
def test_trec_eval_gives_a_written_run_the_numbers_of_the_order_here(
    run: Run, qrels: dict[str, dict[str, int]], tmp_path: Path, ties: Ties
) -> None:
    write_run(kept_apart(run, ties), tmp_path / "a.trec")
    ours = evaluate_run(run if ties == "id" else kept_apart(run, ties), qrels, metrics=METRICS).metrics
    assert by_trec_eval([*ir_measures.read_trec_run(str(tmp_path / "a.trec"))], qrels) == pytest.approx(ours, abs=1e-12)
    again = read_run(tmp_path / "a.trec")
    assert evaluate_run(again, qrels, metrics=METRICS).metrics == ours
    if ties == "id":
        assert all([*again.results[query]] == [name for name, _ in run.ranking(query)] for query in run.results)


def test_scores_that_differ_stay_as_they_are_and_others_fall_by_the_smallest_step() -> None:
    apart = Run({"q": {"b": 2.0, "a": 1.0 + 1e-6}, "none": {}}, "x")
    assert kept_apart(apart) == apart
    assert not orders_differ(apart)
    tied = kept_apart(Run({"q": {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.1}}))
    assert tied.results["q"] == {"a": 0.5, "b": 0.5 - 2**-25, "c": 0.5 - 2**-24, "d": 0.1}
    assert kept_apart(tied) == kept_apart(tied, "trec_eval") == tied
    assert orders_differ(Run({"q": {"a": 0.5, "b": 0.5}}))
    assert orders_differ(Run({"q": {"b": 0.5 - 1e-12, "a": 0.5}}))


def test_ties_count_where_they_can_change_a_metric() -> None:
    run = Run({"q": {"a": 3.0, "b": 2.0, "c": 2.0 + 1e-12, "d": 1.0, "e": 1.0}})
    asked = ["q", "unanswered"]
    assert [tied_queries(run, asked, "trec_eval", cutoff) for cutoff in (1, 2, 0)] == [0, 1, 1]
    assert [tied_queries(run, asked, "id", cutoff) for cutoff in (3, 4, 0)] == [0, 1, 1]

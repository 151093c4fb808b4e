import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from compared import NEW, OLD, OTHER, QRELS, compare_one, ranked, report, two_tasks
from scipy import stats

from llama2vec.errors import EvaluationError
from llama2vec.records import Query, Report, Run
from llama2vec.score.comparison import (
    Comparison,
    ComparisonOptions,
    ShownPassage,
    ShownQuery,
    compare_reports,
    compare_runs,
    pooled_comparison,
    with_texts,
)
from llama2vec.score.metrics import evaluate_run


def test_values_differences_and_counts_are_those_of_the_runs() -> None:
    comparison = compare_one([OLD, NEW], QRELS, metric="MRR@10", task="tiny")
    assert comparison.per_query["old"] == {"q0": 1.0, "q1": 0.5, "q2": 0.25, "q3": 0.2, "q4": 1.0, "q5": 0.5}
    # The new run lacks q5: it scores 0 there.
    assert comparison.per_query["new"] == {"q0": 1.0, "q1": 1.0, "q2": 1.0, "q3": 0.25, "q4": 0.5, "q5": 0.0}
    assert comparison.systems == pytest.approx({"old": 3.45 / 6, "new": 3.75 / 6})
    (pair,) = comparison.pairs
    assert (pair.first, pair.second) == ("old", "new")
    assert pair.difference == pytest.approx(0.05)
    assert (pair.wins, pair.ties, pair.losses) == (3, 1, 2)
    old, new = (list(comparison.per_query[system].values()) for system in ("old", "new"))
    assert pair.t_p == pytest.approx(stats.ttest_rel(new, old).pvalue)
    assert pair.effect_size == pytest.approx(0.05 / np.std(np.subtract(new, old), ddof=1))
    assert pair.flips is None
    facts = comparison.settings
    assert facts["judged_queries"] == 6
    assert facts["unanswered_queries"] == {"old": 0, "new": 1}
    assert facts["depth"] == {"old": 6, "new": 5}


def test_the_queries_that_changed_most_come_with_both_runs_best_passages() -> None:
    options = ComparisonOptions(changed=1, passages=2)
    comparison = compare_one([OLD, NEW], QRELS, metric="MRR@10", options=options)
    # Up by 0.75, then down by 0.5: q4 and q5 are equal, the id decides.
    assert comparison.pairs[0].changed == (("q2", 0.25, 1.0), ("q4", 1.0, 0.5))
    assert set(comparison.shown) == {"q2", "q4"}
    assert comparison.shown["q4"].answers["new"] == (
        ShownPassage(1, "other1", 0.0, None),
        ShownPassage(2, "good", -1.0, 2),
    )
    assert comparison.shown["q2"].answers["new"] == (ShownPassage(1, "good", 0.0, 2), ShownPassage(2, "bad", -1.0, 0))
    everything = compare_one([OLD, NEW], QRELS, metric="MRR@10", options=ComparisonOptions(changed=9))
    assert [query for query, _, _ in everything.pairs[0].changed] == ["q2", "q1", "q3", "q4", "q5"]
    assert everything.shown["q5"].answers["new"] == ()
    assert not compare_one([OLD, NEW], QRELS, options=ComparisonOptions(changed=0)).shown


def test_the_first_run_is_the_baseline_unless_every_pair_is_asked_for() -> None:
    runs = [OLD, NEW, OTHER]
    pairs = [(pair.first, pair.second) for pair in compare_one(runs, QRELS).pairs]
    assert pairs == [("old", "new"), ("old", "other")]
    every = compare_one(runs, QRELS, options=ComparisonOptions(all_pairs=True))
    assert [(pair.first, pair.second) for pair in every.pairs] == [("old", "new"), ("old", "other"), ("new", "other")]


def test_p_values_are_corrected_over_the_pairs_and_alone_they_stay() -> None:
    draw = np.random.default_rng(0)
    base = draw.random(30)
    reports = [report("t", "base", list(base))]
    reports += [report("t", f"s{n}", list(base + draw.normal(shift, 0.1, 30))) for n, shift in enumerate((0.07, 0.03))]
    strong, weak = compare_reports(reports, metric="AP").pairs
    assert strong.t_p is not None
    assert weak.t_p is not None
    assert strong.t_p_corrected == pytest.approx(2 * strong.t_p)
    assert weak.t_p_corrected == pytest.approx(max(weak.t_p, 2 * strong.t_p))
    assert strong.randomization_p_corrected == pytest.approx(2 * strong.randomization_p)
    alone = compare_reports(reports[:2], metric="AP").pairs[0]
    assert (alone.t_p_corrected, alone.randomization_p_corrected) == (alone.t_p, alone.randomization_p)
    settings = compare_reports(reports, metric="AP").settings
    assert settings["correction"] == "Holm, over the 2 pairs of this comparison"


def test_several_metrics_are_scored_at_once_and_agree_with_one_by_one() -> None:
    both = compare_runs([OLD, NEW], QRELS, metrics=["nDCG@10", "MRR@10"], task="tiny")
    assert both == [compare_one([OLD, NEW], QRELS, metric=one, task="tiny") for one in ("nDCG@10", "MRR@10")]


def test_runs_and_their_reports_compare_alike() -> None:
    reports = [evaluate_run(run, QRELS, task="tiny", metrics=["MRR@10"]) for run in (OLD, NEW)]
    from_runs = compare_one([OLD, NEW], QRELS, metric="MRR@10", task="tiny")
    assert compare_reports(reports, metric="MRR@10").pairs == from_runs.pairs


def test_equal_runs_differ_nowhere() -> None:
    (pair,) = compare_one([OLD, dataclasses.replace(OLD, tag="copy")], QRELS).pairs
    assert (pair.difference, pair.interval, pair.effect_size, pair.effect_interval) == (
        0.0,
        (0.0, 0.0),
        0.0,
        (0.0, 0.0),
    )
    assert (pair.t_p, pair.randomization_p, pair.t_p_corrected, pair.randomization_p_corrected) == (1.0,) * 4
    assert (pair.wins, pair.ties, pair.losses, pair.changed) == (0, 6, 0, ())


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ([OLD], "comparing needs at least two runs, not 1"),
        ([OLD, OLD], "two runs are called 'old'; give each run its own tag"),
        ([OLD, Run({"else": {"good": 1.0}}, "x")], "no id in common"),
        ([OLD, Run({"q0": {"good": math.nan}}, "x")], "the score nan; scores must be finite"),
        ([OLD, Run({"q0": {"good": math.inf}}, "x")], "the score inf; scores must be finite"),
        ([ranked("a", {"q0": 1, "q1": 1}), ranked("b", {"q2": 1})], "'a' and 'b' have no judged query in common"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs: list[Run], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        compare_one(runs, QRELS)


def test_a_run_that_lacks_most_queries_of_the_others_is_named(caplog: pytest.LogCaptureFixture) -> None:
    qrels = {f"q{number}": {"a": 1} for number in range(9)}
    whole = Run({query: {"a": 1.0} for query in qrels}, "whole")
    half = Run({query: {"a": 1.0} for query in list(qrels)[:5]}, "half")
    cut = Run({query: {"a": 1.0} if query < "q4" else {} for query in qrels}, "cut")
    compare_runs([whole, half, cut], qrels)
    warnings = [one.getMessage() for one in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith("run 'cut' lacks 5 of 9 judged queries that the other runs answer")


def test_a_run_that_ends_above_a_metrics_cutoff_is_named_for_that_metric(caplog: pytest.LogCaptureFixture) -> None:
    qrels = {f"q{number}": {"p3": 1} for number in range(4)}
    whole = Run({query: {f"p{rank}": -float(rank) for rank in range(40)} for query in qrels}, "whole")
    cut = Run({query: {f"p{rank}": -float(rank) for rank in range(12)} for query in qrels}, "cut")
    compare_runs([whole, cut], qrels, metrics=["nDCG@10", "R@20"])
    assert [one.getMessage() for one in caplog.records] == [
        "run 'cut' ends after 12 passages per query, and what it lacks counts as not found in R@20; give a longer run"
    ]


def test_one_judged_query_is_too_few() -> None:
    with pytest.raises(EvaluationError, match="1 judged query is too few"):
        compare_one([OLD, NEW], {"q0": {"good": 1}})


def test_other_runs_than_the_compared_pairs_need_no_query_in_common() -> None:
    apart = [OLD, ranked("a", {"q0": 1}), ranked("b", {"q1": 1})]
    assert len(compare_one(apart, QRELS).pairs) == 2
    with pytest.raises(EvaluationError, match="'a' and 'b' have no judged query"):
        compare_one(apart, QRELS, options=ComparisonOptions(all_pairs=True))


@pytest.mark.parametrize(
    ("reports", "problem"),
    [
        ([report("t", "a", [0.1, 0.2]), report("u", "b", [0.1, 0.2])], r"different tasks \(t, u\)"),
        ([report("t", "a", [0.1, 0.2]), report("t", "b", [0.1, 0.2, 0.3])], "cover different queries"),
        ([report("t", "a", [0.1, 0.2]), Report("t", "b", {"AP": 0.1})], "'b' has no values per query of 'AP'"),
        ([report("t", "a", [0.1, 0.2]), report("t", "b", [0.1, math.nan])], "not finite"),
    ],
)
def test_reports_that_do_not_fit_together_are_refused(reports: list[Report], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        compare_reports(reports, metric="AP")


@pytest.mark.parametrize(
    ("option", "problem"),
    [({"changed": -1}, "changed is -1"), ({"flips": 0}, "flips is 0"), ({"flips": 10**14}, "choose 1 to 10,000,000")],
)
def test_options_out_of_range_are_refused(option: dict[str, int], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        compare_one([OLD, NEW], QRELS, options=ComparisonOptions(**option))


def test_pooled_tasks_count_alike_whatever_their_queries() -> None:
    big, small = two_tasks()
    pooled = pooled_comparison([big, small])
    assert pooled.task == "big + small"
    assert pooled.systems == pytest.approx({name: (big.systems[name] + small.systems[name]) / 2 for name in "ab"})
    (pair,) = pooled.pairs
    assert pair.difference == pytest.approx((big.pairs[0].difference + small.pairs[0].difference) / 2)
    assert pair.difference == pytest.approx(pooled.systems["b"] - pooled.systems["a"])
    assert pair.interval[0] < pair.difference < pair.interval[1]
    # Over the stacked queries alone the mean would be 0.015.
    assert pair.interval[0] > 0.1
    assert pair.randomization_p < 0.001
    assert pair.wins == big.pairs[0].wins + small.pairs[0].wins
    assert len(pooled.per_query["a"]) == 420
    assert pooled.per_query["b"]["small:7"] == small.per_query["b"]["7"]
    assert pooled.settings["tasks"] == {"big": big.systems, "small": small.systems}
    assert all(query.startswith("small:") for query, first, second in pair.changed if second - first > 0.35)


def test_pooling_one_task_is_that_task() -> None:
    big = two_tasks()[0]
    options = ComparisonOptions(changed=0)
    pair, alone = pooled_comparison([big], options=options).pairs[0], dataclasses.replace(big.pairs[0], changed=())
    assert pair == alone


def test_pooled_comparisons_keep_the_texts_of_changed_queries() -> None:
    shown = {"q2": ShownQuery("why?", {"old": (ShownPassage(1, "p", 1.0, 0, "T", "text"),)})}
    one = dataclasses.replace(compare_one([OLD, NEW], QRELS, metric="MRR@10", task="one"), shown=shown)
    other = dataclasses.replace(one, task="other")
    pooled = pooled_comparison([one, other], options=ComparisonOptions(changed=1))
    assert pooled.shown == {"one:q2": shown["q2"]}


@pytest.mark.parametrize(
    ("comparisons", "problem"),
    [
        ([], "nothing to pool"),
        (two_tasks()[:1] * 2, "two comparisons are of the task 'big'"),
        ([two_tasks()[0], dataclasses.replace(two_tasks()[1], metric="RR")], "different systems, pairs or metrics"),
        ([two_tasks()[0], dataclasses.replace(two_tasks()[1], pairs=[])], "different systems, pairs or metrics"),
        ([two_tasks()[0], dataclasses.replace(two_tasks()[1], systems={"a": 0.0})], "different systems, pairs"),
    ],
)
def test_comparisons_that_do_not_fit_together_are_not_pooled(comparisons: list[Comparison], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        pooled_comparison(comparisons)


def test_texts_of_queries_and_passages_are_filled_in(tmp_path: Path) -> None:
    others = {name for run in (OLD, NEW) for found in run.results.values() for name in found}
    rows = [{"_id": name, "title": name.upper(), "text": f"text of {name}"} for name in sorted(others)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    comparison = compare_one([OLD, NEW], QRELS)
    [told] = with_texts([comparison], [OLD, NEW], [Query("q2", "what is it?")], str(corpus))
    shown = told.shown["q2"]
    assert shown.text == "what is it?"
    best = shown.answers["new"][0]
    assert (best.id, best.title, best.snippet) == ("good", "GOOD", "text of good")
    corpus.write_text('{"_id": "good", "text": "x"}\n', encoding="utf-8")
    with pytest.raises(
        EvaluationError, match=r"lacks 5 of 6 passages that it returned; give the corpus that was searched"
    ):
        with_texts([comparison], [OLD, NEW], [], str(corpus))

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from llama2vec.errors import EvaluationError, OutputExistsError
from llama2vec.records import Report, Run
from llama2vec.score.comparison import (
    Comparison,
    ComparisonOptions,
    ShownPassage,
    ShownQuery,
    compare_measures,
    compare_reports,
    compare_runs,
    comparison_from_json,
    comparison_to_json,
    pooled_comparison,
    read_comparisons,
    write_comparisons,
)
from llama2vec.score.comparison_report import markdown_comparison, rich_comparison
from llama2vec.score.metrics import evaluate_run

QRELS = {f"q{number}": {"good": 2, "bad": 0} for number in range(6)}


def ranked(tag: str, places: dict[str, int]) -> Run:
    """A run whose good passage stands at the given rank of each query."""
    results = {}
    for query, place in places.items():
        passages = [f"other{rank}" for rank in range(1, place)] + ["good", "bad"]
        results[query] = {passage: -float(rank) for rank, passage in enumerate(passages)}
    return Run(results, tag)


OLD = ranked("old", {"q0": 1, "q1": 2, "q2": 4, "q3": 5, "q4": 1, "q5": 2})
NEW = ranked("new", {"q0": 1, "q1": 1, "q2": 1, "q3": 4, "q4": 2})
OTHER = ranked("other", {"q0": 5, "q1": 5, "q2": 5, "q3": 5, "q4": 5, "q5": 5})


def report(task: str, system: str, values: list[float]) -> Report:
    return Report(task, system, {}, per_query={"AP": {f"{number}": value for number, value in enumerate(values)}})


def test_values_differences_and_counts_are_those_of_the_runs() -> None:
    comparison = compare_runs([OLD, NEW], QRELS, measure="MRR@10", task="tiny")
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
    comparison = compare_runs([OLD, NEW], QRELS, measure="MRR@10", options=options)
    # Up by 0.75, then down by 0.5: q4 and q5 are equal, the id decides.
    assert comparison.pairs[0].changed == (("q2", 0.25, 1.0), ("q4", 1.0, 0.5))
    assert set(comparison.shown) == {"q2", "q4"}
    assert comparison.shown["q4"].answers["new"] == (
        ShownPassage(1, "other1", 0.0, None),
        ShownPassage(2, "good", -1.0, 2),
    )
    assert comparison.shown["q2"].answers["new"] == (ShownPassage(1, "good", 0.0, 2), ShownPassage(2, "bad", -1.0, 0))
    everything = compare_runs([OLD, NEW], QRELS, measure="MRR@10", options=ComparisonOptions(changed=9))
    assert [query for query, _, _ in everything.pairs[0].changed] == ["q2", "q1", "q3", "q4", "q5"]
    assert everything.shown["q5"].answers["new"] == ()
    assert not compare_runs([OLD, NEW], QRELS, options=ComparisonOptions(changed=0)).shown


def test_the_first_run_is_the_baseline_unless_every_pair_is_asked_for() -> None:
    runs = [OLD, NEW, OTHER]
    pairs = [(pair.first, pair.second) for pair in compare_runs(runs, QRELS).pairs]
    assert pairs == [("old", "new"), ("old", "other")]
    every = compare_runs(runs, QRELS, options=ComparisonOptions(all_pairs=True))
    assert [(pair.first, pair.second) for pair in every.pairs] == [("old", "new"), ("old", "other"), ("new", "other")]


def test_p_values_are_corrected_over_the_pairs_and_alone_they_stay() -> None:
    draw = np.random.default_rng(0)
    base = draw.random(30)
    reports = [report("t", "base", list(base))]
    reports += [report("t", f"s{n}", list(base + draw.normal(shift, 0.1, 30))) for n, shift in enumerate((0.07, 0.03))]
    strong, weak = compare_reports(reports, measure="AP").pairs
    assert strong.t_p is not None
    assert weak.t_p is not None
    assert strong.t_p_corrected == pytest.approx(2 * strong.t_p)
    assert weak.t_p_corrected == pytest.approx(max(weak.t_p, 2 * strong.t_p))
    assert strong.randomization_p_corrected == pytest.approx(2 * strong.randomization_p)
    alone = compare_reports(reports[:2], measure="AP").pairs[0]
    assert (alone.t_p_corrected, alone.randomization_p_corrected) == (alone.t_p, alone.randomization_p)
    settings = compare_reports(reports, measure="AP").settings
    assert settings["correction"] == "Holm, over the 2 pairs of this comparison"


def test_several_measures_are_scored_at_once_and_agree_with_one_by_one() -> None:
    both = compare_measures([OLD, NEW], QRELS, measures=["nDCG@10", "MRR@10"], task="tiny")
    assert both == [compare_runs([OLD, NEW], QRELS, measure=one, task="tiny") for one in ("nDCG@10", "MRR@10")]


def test_runs_and_their_reports_compare_alike() -> None:
    reports = [evaluate_run(run, QRELS, task="tiny", measures=["MRR@10"]) for run in (OLD, NEW)]
    from_runs = compare_runs([OLD, NEW], QRELS, measure="MRR@10", task="tiny")
    assert compare_reports(reports, measure="MRR@10").pairs == from_runs.pairs


def test_equal_runs_differ_nowhere() -> None:
    (pair,) = compare_runs([OLD, dataclasses.replace(OLD, tag="copy")], QRELS).pairs
    assert (pair.difference, pair.interval, pair.effect_size, pair.effect_interval) == (
        0.0,
        (0.0, 0.0),
        0.0,
        (0.0, 0.0),
    )
    assert (pair.t_p, pair.randomization_p, pair.t_p_corrected, pair.randomization_p_corrected) == (1.0,) * 4
    assert (pair.wins, pair.ties, pair.losses, pair.changed) == (0, 6, 0, ())


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ([OLD], "1 of two runs or more"),
        ([OLD, OLD], "two runs are called 'old'; give each run a tag"),
        ([OLD, Run({"else": {"good": 1.0}}, "x")], "no id in common"),
        ([OLD, Run({"q0": {"good": math.nan}}, "x")], "the score nan; scores must be finite"),
        ([OLD, Run({"q0": {"good": math.inf}}, "x")], "the score inf; scores must be finite"),
        ([ranked("a", {"q0": 1, "q1": 1}), ranked("b", {"q2": 1})], "'a' and 'b' have no judged query in common"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs: list[Run], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        compare_runs(runs, QRELS)


def test_one_judged_query_is_too_few() -> None:
    with pytest.raises(EvaluationError, match="1 judged query is too few"):
        compare_runs([OLD, NEW], {"q0": {"good": 1}})


def test_other_runs_than_the_compared_pairs_need_no_query_in_common() -> None:
    apart = [OLD, ranked("a", {"q0": 1}), ranked("b", {"q1": 1})]
    assert len(compare_runs(apart, QRELS).pairs) == 2
    with pytest.raises(EvaluationError, match="'a' and 'b' have no judged query"):
        compare_runs(apart, QRELS, options=ComparisonOptions(all_pairs=True))


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
        compare_reports(reports, measure="AP")


@pytest.mark.parametrize(("option", "problem"), [({"changed": -1}, "changed is -1"), ({"flips": 0}, "flips is 0")])
def test_options_out_of_range_are_refused(option: dict[str, int], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        compare_runs([OLD, NEW], QRELS, options=ComparisonOptions(**option))


# ---------------------------------------------------------------------------------------------------- several tasks


def two_tasks() -> list[Comparison]:
    draw = np.random.default_rng(1)
    found = []
    for task, size, shift in (("big", 400, 0.0), ("small", 20, 0.3)):
        base = draw.random(size)
        reports = [report(task, "a", list(base)), report(task, "b", list(base + draw.normal(shift, 0.1, size)))]
        found.append(compare_reports(reports, measure="AP", options=ComparisonOptions(changed=2)))
    return found


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
    one = dataclasses.replace(compare_runs([OLD, NEW], QRELS, measure="MRR@10", task="one"), shown=shown)
    other = dataclasses.replace(one, task="other")
    pooled = pooled_comparison([one, other], options=ComparisonOptions(changed=1))
    assert pooled.shown == {"one:q2": shown["q2"]}


@pytest.mark.parametrize(
    ("comparisons", "problem"),
    [
        ([], "no comparison to pool"),
        (two_tasks()[:1] * 2, "two comparisons are of the task 'big'"),
        ([two_tasks()[0], dataclasses.replace(two_tasks()[1], measure="RR")], "different systems, pairs or measures"),
        ([two_tasks()[0], dataclasses.replace(two_tasks()[1], pairs=[])], "different systems, pairs or measures"),
        ([two_tasks()[0], dataclasses.replace(two_tasks()[1], systems={"a": 0.0})], "different systems, pairs"),
    ],
)
def test_comparisons_that_do_not_fit_together_are_not_pooled(comparisons: list[Comparison], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        pooled_comparison(comparisons)


# ------------------------------------------------------------------------------------------------------------ files


def test_json_gives_back_the_same_comparison(tmp_path: Path) -> None:
    same_everywhere = compare_reports([report("t", "a", [0.0, 0.5]), report("t", "b", [0.5, 1.0])], measure="AP")
    assert same_everywhere.pairs[0].effect_size is None
    one = compare_runs([OLD, NEW, OTHER], QRELS, measure="MRR@10", task="tiny")
    for comparison in (one, same_everywhere, pooled_comparison(two_tasks())):
        assert comparison_from_json(json.loads(json.dumps(comparison_to_json(comparison)))) == comparison
    write_comparisons(tmp_path / "one.json", [one])
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(comparison_to_json(one))
    )
    write_comparisons(tmp_path / "two.json", [one, same_everywhere])
    assert read_comparisons(tmp_path / "one.json") == [one]
    assert read_comparisons(tmp_path / "two.json") == [one, same_everywhere]
    with pytest.raises(OutputExistsError):
        write_comparisons(tmp_path / "one.json", [one])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("no JSON", "this is no llama2vec-comparison"),
        ("[1]", "this is no llama2vec-comparison"),
        ('{"comparisons": [{}]}', "this is no llama2vec-comparison"),
        ('{"format": "llama2vec-comparison", "version": 2}', "of version 1"),
        ('{"format": "llama2vec-comparison", "version": 1, "task": ""}', "damaged"),
    ],
)
def test_files_that_are_no_comparison_are_refused_with_their_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EvaluationError, match=rf"a\.json.*{problem}"):
        read_comparisons(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_comparisons(tmp_path / "none.json")


def test_a_pair_with_missing_numbers_is_damaged() -> None:
    data = comparison_to_json(compare_runs([OLD, NEW], QRELS))
    del data["pairs"][0]["t_p"]
    with pytest.raises(EvaluationError, match=r"damaged.*t_p"):
        comparison_from_json(data)


# ---------------------------------------------------------------------------------------------------------- tables


def terminal(comparison: Comparison) -> str:
    stream = io.StringIO()
    Console(file=stream, width=150, highlight=False).print(rich_comparison(comparison))
    return stream.getvalue()


def test_the_terminal_shows_tests_verdicts_and_changed_queries() -> None:
    comparison = compare_runs([OLD, NEW, OTHER], QRELS, measure="MRR@10", task="tiny [x]")
    text = terminal(comparison)
    (pair, _) = comparison.pairs
    for part in (
        "tiny [x] · MRR@10 · 6 judged queries",
        "new − old",
        f"+0.050 [{pair.interval[0]:.3f}, {pair.interval[1]:.3f}]",
        f"{pair.randomization_p_corrected:.4f}",
        "3/1/2",
        "after Holm over the 2 pairs",
        "every sign pattern",
        "No difference is shown between new and old",
        "with 80 % power",
        "+0.750  q2  (0.250 → 1.000)",
        "old 1. other1 (not judged)",
        "new 1. good (gain 2)",
        "new: returned nothing",
    ):
        assert part in text, part


def test_the_verdict_names_the_better_system_whichever_comes_first() -> None:
    draw = np.random.default_rng(2)
    low, high = list(draw.random(30) / 10), list(draw.random(30) / 10 + 0.5)
    for values in ((low, high), (high, low)):
        reports = [report("t", name, numbers) for name, numbers in zip("ab", values, strict=True)]
        better = "b is better than a" if values[0] is low else "a is better than b"
        text = terminal(compare_reports(reports, measure="AP"))
        assert f"{better} by 0.5" in text
        assert "100,000 random sign patterns" in text
        assert "Holm" not in text
    same = [report("t", name, [0.1, 0.2]) for name in "ab"]
    assert "b and a score the same on every query." in terminal(compare_reports(same, measure="AP"))


def test_markdown_shows_p_values_before_the_correction_and_texts_as_they_are() -> None:
    comparison = compare_runs([OLD, NEW, OTHER], QRELS, measure="MRR@10", task="a|b")
    query = ShownQuery("what *is*\nit?", {"old": (ShownPassage(1, "p_1", 1.0, None, "<b>", "1 | 2"),)})
    comparison = dataclasses.replace(comparison, shown={**comparison.shown, "q2": query})
    lines = markdown_comparison(comparison).splitlines()
    assert lines[0] == "## a\\|b · MRR@10 · 6 judged queries"
    assert "| System | MRR@10 | queries it lacks | depth |" in lines
    pair = comparison.pairs[1]
    assert f"{pair.randomization_p_corrected:.4f} ({pair.randomization_p:.4f})" in "\n".join(lines)
    assert "- **+0.750** (0.250 → 1.000) q2: what \\*is\\* it?" in lines
    assert "    - old 1. p\\_1 (not judged) \\<b\\> — 1 \\| 2" in lines


def test_the_pooled_table_has_a_column_per_task() -> None:
    pooled = pooled_comparison(two_tasks())
    lines = markdown_comparison(pooled).splitlines()
    assert "| System | AP | big | small |" in lines
    means = [pooled.systems["a"], *(task["a"] for task in pooled.settings["tasks"].values())]
    assert f"| a | {' | '.join(f'{mean:.3f}' for mean in means)} |" in lines

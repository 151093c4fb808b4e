import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import NEW, OLD, QUERIES, make_report

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.records import Report
from llama2vec.score.comparison import compare_reports
from llama2vec.score.report.content import Content, averages, build_content
from llama2vec.score.report.sources import read_sources
from llama2vec.score.results import write_comparisons

Writer = Callable[..., Path]


def built(*paths: Path, baseline: str = "") -> Content:
    return build_content(read_sources(paths), baseline=baseline)


def test_sources_of_one_task_meet_in_one_table_and_are_tested(evaluation: Writer) -> None:
    content = built(evaluation("a", make_report("old", OLD)), evaluation("b", make_report("new", NEW)))
    (task,) = content.tasks
    assert (content.title, [report.system for report in task.reports]) == ("Evaluation: tiny/test", ["old", "new"])
    ((_, pair),) = task.pairs
    assert (pair.first, pair.second, pair.wins, pair.ties, pair.losses) == ("old", "new", 5, 2, 1)
    assert pair.difference == pytest.approx(sum(NEW) / 8 - sum(OLD) / 8)


def test_the_baseline_can_be_chosen_and_must_be_there(evaluation: Writer) -> None:
    folders = evaluation("a", make_report("old", OLD)), evaluation("b", make_report("new", NEW))
    (task,) = built(*folders, baseline="new").tasks
    assert [(pair.first, pair.second) for _, pair in task.pairs] == [("new", "old")]
    with pytest.raises(ConfigError, match="--baseline knew: no such system in these results; there are: new, old"):
        built(*folders, baseline="knew")


def test_given_comparisons_are_shown_and_fill_up_the_reports(evaluation: Writer, tmp_path: Path) -> None:
    both = [make_report("old", OLD), make_report("new", NEW)]
    comparison = compare_reports(both)
    write_comparisons(tmp_path / "cmp.json", [comparison])
    (task,) = built(evaluation("a", both[1]), tmp_path / "cmp.json").tasks
    assert task.comparisons == [comparison]
    assert {report.system: report.metrics["nDCG@10"] for report in task.reports} == pytest.approx(comparison.systems)
    (old,) = [report for report in task.reports if report.system == "old"]
    assert list(old.per_query["nDCG@10"].values()) == OLD
    assert old.intervals["nDCG@10"][0] < old.metrics["nDCG@10"] < old.intervals["nDCG@10"][1]


def test_a_comparison_of_other_runs_under_the_same_names_is_refused(evaluation: Writer, tmp_path: Path) -> None:
    comparison = compare_reports([make_report("old", OLD), make_report("new", [*OLD[::-1][:7], 1.0])])
    write_comparisons(tmp_path / "cmp.json", [comparison])
    with pytest.raises(EvaluationError, match=r"'new' has nDCG@10 0.5750 in .* and 0.4750 in .*not the same run"):
        built(evaluation("a", make_report("new", NEW)), tmp_path / "cmp.json")


@pytest.mark.parametrize("name", ["corpus_fingerprint", "judgments_fingerprint"])
def test_results_on_other_data_under_one_task_are_refused(evaluation: Writer, name: str) -> None:
    what = {"corpus_fingerprint": "corpora", "judgments_fingerprint": "queries or judgments"}[name]
    one = evaluation("a", make_report("old", OLD, **{name: "f00d"}))
    two = evaluation("b", make_report("new", NEW, **{name: "beef"}))
    with pytest.raises(EvaluationError, match=f"tiny/test: .* were made on different {what}"):
        built(one, two)


def test_a_comparison_on_another_corpus_is_refused(evaluation: Writer, tmp_path: Path) -> None:
    comparison = compare_reports([make_report("old", OLD), make_report("new", NEW)])
    moved = dataclasses.replace(comparison, settings={**comparison.settings, "corpus_fingerprint": "beef"})
    write_comparisons(tmp_path / "cmp.json", [moved])
    with pytest.raises(EvaluationError, match="different corpora"):
        built(evaluation("a", make_report("old", OLD)), tmp_path / "cmp.json")


def test_one_system_twice_on_a_task_is_refused_with_both_places(evaluation: Writer) -> None:
    with pytest.raises(EvaluationError, match=r"a/tiny-test.json and .*b/tiny-test.json both hold results of 'old'"):
        built(evaluation("a", make_report("old", OLD)), evaluation("b", make_report("old", NEW)))


def test_systems_on_other_queries_are_not_tested_but_pointed_out(evaluation: Writer) -> None:
    (task,) = built(evaluation("a", make_report("old", OLD)), evaluation("b", make_report("new", NEW[:5]))).tasks
    assert task.pairs == []
    assert task.notes == [
        "nDCG@10 was computed on different queries (old: 8, new: 5; in common: 5), so these means cannot be compared."
    ]


def average_report(system: str, values: list[float]) -> Report:
    """An average of two members of 2 and 6 queries, each counting alike."""
    names = [f"{'ab'[number > 1]}/{query_id}" for number, query_id in enumerate(QUERIES)]
    mean = (sum(values[:2]) / 2 + sum(values[2:]) / 6) / 2
    by_query = {"nDCG@10": dict(zip(names, values, strict=True))}
    settings = {"members": ["tiny/a", "tiny/b"]}
    return Report("tiny", system, {"nDCG@10": mean}, {}, by_query, settings)


def test_an_average_of_tasks_counts_once_and_its_members_are_tested(evaluation: Writer) -> None:
    old, new = average_report("old", OLD), average_report("new", NEW)
    one = evaluation("a", old, make_report("old", OLD, task="tiny/a"))
    two = evaluation("b", new, make_report("new", NEW, task="tiny/a"))
    content = built(one, two)
    assert [task.name for task in content.tasks] == ["tiny/a", "tiny"]
    (task,) = content.headline
    assert (task.name, task.pairs, task.notes) == ("tiny", [], [])
    [member] = [one for one in content.tasks if one.name == "tiny/a"]
    assert len(member.pairs) == 1


def test_the_average_is_over_systems_scored_everywhere_by_one_metric(evaluation: Writer) -> None:
    tasks = built(
        evaluation("a", make_report("old", OLD), make_report("old", NEW, task="other")),
        evaluation("b", make_report("new", NEW)),
    ).tasks
    assert averages(tasks) == {"old": pytest.approx((sum(OLD) + sum(NEW)) / 16)}
    assert averages(tasks[:1]) == {}
    similarity = evaluation("c", Report("sts", "old", {"spearman": 0.8}))
    assert averages([*tasks, *built(similarity).tasks]) == {}

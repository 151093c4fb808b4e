import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import LOG, NEW, OLD, QUERIES, make_report

from llama2vec.errors import ConfigError, DataError, EvaluationError
from llama2vec.records import Report
from llama2vec.score.comparison import compare_reports
from llama2vec.score.report.content import Content, averages, build_content
from llama2vec.score.report.sources import read_sources
from llama2vec.score.results import Result, comparison_to_json, write_comparisons, write_result

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


def test_without_the_baseline_nothing_is_tested_and_a_note_names_the_task(evaluation: Writer) -> None:
    new, other = evaluation("b", make_report("new", NEW)), evaluation("c", make_report("other", OLD))
    elsewhere = evaluation("d", dataclasses.replace(make_report("old", OLD), task="beir/nq"))
    tiny, _ = built(new, other, elsewhere, baseline="old").tasks
    expected = "No system is tested on tiny/test, because the baseline old has no results there."
    assert (tiny.pairs, tiny.notes) == ([], [expected])
    old = evaluation("a", make_report("old", OLD))
    (old / "tiny-test.per-query.tsv").unlink()
    (tiny,) = built(new, other, old, baseline="old").tasks
    expected = "No system is tested on tiny/test, because the baseline old has no values per query of nDCG@10 there."
    assert (tiny.pairs, tiny.notes) == ([], [expected])
    # Without a name it is the first that has values; whoever lacks them is named.
    (tiny,) = built(old, new, other).tasks
    assert [(pair.first, pair.second) for _, pair in tiny.pairs] == [("new", "other")]
    assert tiny.notes == ["Not tested against new on tiny/test: old. Each needs nDCG@10 of the same queries."]


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
        "nDCG@10 was computed on different queries (old: 8, new: 5; in common: 5), so these means cannot be compared.",
        "Not tested against old on tiny/test: new. Each needs nDCG@10 of the same queries.",
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


HEAD = '{"format": "llama2vec-evaluation", "version": 1'


def test_a_folder_of_an_evaluation_gives_its_tasks_with_values_per_query(evaluation: Writer) -> None:
    folder = evaluation("new", make_report("new", NEW), make_report("new", OLD, task="other"))
    sources = read_sources([folder])
    (other, tiny) = [one.report for one in sources.evaluations]
    assert (tiny.task, tiny.system, other.task) == ("tiny/test", "new", "other")
    assert list(tiny.per_query["nDCG@10"].values()) == NEW
    assert tiny.settings["corpus_fingerprint"] == "c0ffee"
    assert tiny.settings["seconds"] == 1.5
    assert sorted(file.kind for file in sources.files) == ["evaluation"] * 2 + ["values per query"] * 2


def test_a_single_result_needs_no_values_per_query(evaluation: Writer) -> None:
    file = evaluation("new", make_report("new", NEW, depth=7)) / "tiny-test.json"
    file.with_name("tiny-test.per-query.tsv").unlink()
    [report] = [one.report for one in read_sources([file]).evaluations]
    assert (report.per_query, report.intervals, report.settings["depth"]) == ({}, {"nDCG@10": (0.2, 1.0)}, 7)


def test_comparisons_are_read_from_a_file_of_several_and_of_one(tmp_path: Path) -> None:
    comparison = compare_reports([make_report("old", OLD), make_report("new", NEW)])
    write_comparisons(tmp_path / "many.json", [comparison])
    (tmp_path / "one.json").write_text(json.dumps(comparison_to_json(comparison)), encoding="utf-8")
    for name in ("many.json", "one.json"):
        assert [one.comparison for one in read_sources([tmp_path / name]).comparisons] == [comparison]


def test_a_training_is_read_without_the_line_that_a_kill_cut_short(training: Writer) -> None:
    (done, begun) = read_sources([training("done"), training("begun", finished=False, rest='{"step": 1')]).trainings
    assert (done.stage, bool(done.manifest), list(done.log)) == ("adapt", True, LOG)
    assert (begun.stage, bool(begun.manifest), list(begun.log)) == ("adapt", False, LOG)


def test_a_run_gives_its_stages_its_trainings_and_its_scores(
    tmp_path: Path, training: Writer, evaluation: Writer
) -> None:
    training("run/adapted")
    evaluation("run/report/raw", make_report("raw", OLD))
    evaluation("run/report/new", make_report("new", NEW))
    stages = {
        "adapt": {"state": "finished", "folder": "adapted", "seconds": 75.0},
        "evaluate": {"state": "finished", "folder": "report", "seconds": 3.0},
        "index": {"state": "running", "folder": "index"},
    }
    content = {"format": "llama2vec-run", "recipe": {"corpus": "texts"}, "stages": stages}
    (tmp_path / "run" / "run.json").write_text(json.dumps(content), encoding="utf-8")
    sources = read_sources([tmp_path / "run"])
    assert [one.stage for one in sources.trainings] == ["adapt"]
    assert [list(one.report.per_query["nDCG@10"].values()) for one in sources.evaluations] == [NEW, OLD]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 2]", "holds no result to report"),
        ('{"tasks": {"cranfield": {}}}', "holds no result to report"),
        ("{", "cannot be read as JSON"),
        (
            '{RESULT, "task": "t", "system": "s", "metrics": {"AP": NaN}}',
            "holds NaN, which is not a score",
        ),
        (
            '{RESULT, "task": "t", "system": "s", "metrics": {"AP": 1e999}}',
            "metrics.AP: input should be a finite number",
        ),
        (
            '{RESULT, "task": "t", "system": "s", "metrics": {"AP": "high"}}',
            "metrics.AP: input should be a valid number",
        ),
        (
            '{RESULT, "task": "t", "system": "s", "metrics": {}}',
            "metrics: dictionary should have at least 1 item",
        ),
        (
            '{RESULT, "task": "", "system": "s", "metrics": {"AP": 1}}',
            "task: string should have at least 1",
        ),
        (
            '{RESULT, "task": "t", "system": "s", "metrics": {"AP": 1}, "intervals": {"AP": [1]}}',
            "intervals.AP.1: field required",
        ),
        ('{"task": "t", "systems": {"s": {}}, "intervals": {}}', "holds no result to report"),
        (
            '{"format": "llama2vec-comparison", "version": 1, "comparisons": [{}]}',
            "give what `llama2vec compare --output`",
        ),
    ],
)
def test_files_that_hold_no_result_or_a_broken_one_are_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content.replace("{RESULT", HEAD), encoding="utf-8")
    with pytest.raises((DataError, EvaluationError), match=problem) as caught:
        read_sources([path])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"format": "another"}', "holds no result to report"),
        ('{"format": "llama2vec-run", "stages": {"adapt": 3}}', "adapt: input should be a valid dictionary"),
    ],
)
def test_a_run_that_is_foreign_or_broken_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=problem):
        read_sources([tmp_path])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q9\tnew\tnDCG@10\tnan", r":10: 'nan' is not a finite number"),
        ("q9\tnew\tnDCG@10\tmuch", r":10 is not query, system, metric and number"),
        ("q9\tnew\t0.5", r":10 is not query, system, metric and number"),
        ("q1\tnew\tnDCG@10\t0.5", r":10: 'q1' already has nDCG@10"),
    ],
)
def test_faulty_values_per_query_are_named_with_their_line(evaluation: Writer, line: str, problem: str) -> None:
    file = evaluation("new", make_report("new", NEW)) / "tiny-test.json"
    with file.with_name("tiny-test.per-query.tsv").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=problem):
        read_sources([file])


def test_values_per_query_without_their_header_are_refused(evaluation: Writer) -> None:
    file = evaluation("new", make_report("new", NEW)) / "tiny-test.json"
    file.with_name("tiny-test.per-query.tsv").write_text("q1\tnew\tnDCG@10\t0.5\n", encoding="utf-8")
    with pytest.raises(DataError, match="the header must be query, system, metric, value"):
        read_sources([file])


@pytest.mark.parametrize(
    ("log", "rest", "problem"),
    [
        ([], "", "no step is logged yet"),
        ([], '{"step": 1}', "no step is logged yet"),
        ([{"loss": 1.0}], "", r"log.jsonl:1 has no step"),
        ([{"step": 1, "loss": math.nan}], "", r"log.jsonl:1 holds NaN"),
        ([{"step": 1}], "not JSON\n{}\n", r"log.jsonl:2 cannot be read as JSON"),
    ],
)
def test_a_broken_log_is_refused(training: Writer, log: list[dict[str, float]], rest: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_sources([training("broken", log=log, rest=rest)])


def test_paths_that_are_missing_foreign_doubled_or_none_at_all_are_refused(tmp_path: Path, training: Writer) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.json").write_bytes(b"\xff\xfe")
    adapted = training("adapted")
    for paths, error, problem in (
        ([tmp_path / "gone"], DataError, "gone does not exist"),
        ([tmp_path / "empty"], DataError, "empty holds no result to report"),
        ([tmp_path / "picture.json"], DataError, "not valid UTF-8"),
        ([adapted, tmp_path / "." / "adapted"], ConfigError, "adapted is given twice"),
        ([], ConfigError, "nothing to report"),
    ):
        with pytest.raises(error, match=problem):
            read_sources(paths)


def test_a_result_that_is_gone_or_damaged_is_not_passed_over(tmp_path: Path) -> None:
    write_result(tmp_path, Result(Report("tiny/test", "a", {"AP": 0.5}, {}, {"AP": {"q": 0.5}}, {}), 1.0))
    (tmp_path / "tiny-test.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"tiny-test\.json is missing or damaged, and tiny-test\.per-query\.tsv"):
        read_sources([tmp_path])
    (tmp_path / "tiny-test.json").unlink()
    with pytest.raises(DataError, match="is missing or damaged"):
        read_sources([tmp_path])

"""Tables and tests of the study, on results made by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest
from scipy import stats

from benchmarks.study.cells import ADAPTATIONS, Arm, Cell, adapted, raw_mean, tuned
from benchmarks.study.command import main
from benchmarks.study.comparisons import Question, Scores, answers, answers_by_set, arm_name, questions
from benchmarks.study.plots import draw_curves
from benchmarks.study.protocol import Protocol, load_protocol
from benchmarks.study.report import study_content
from benchmarks.study.results import Results, add, no_results
from benchmarks.study.tables import (
    TABLES,
    coverage_table,
    labels_table,
    main_table,
    page,
    sets_table,
    significance_table,
    steps_table,
)
from llama2vec.score.report.content import averages
from llama2vec.score.report.page import render_page

Make = Callable[..., Results]
BOTH, NONE = Arm("both", steps=2), Arm("none")
ONE = {0: [0.1, 0.2, 0.3, 0.0], 1: [0.3, 0.2, 0.1, 0.0]}
TWO = {0: [0.5, 0.9, 0.4, 0.1], 1: [0.7, 0.7, 0.6, 0.3]}


@pytest.fixture
def scores(toy: Protocol, made_results: Make) -> Scores:
    """Raw and adapted, fine-tuned on labels, with two seeds; BM25; of the rest nothing."""
    two_seeds = toy.model_copy(update={"plan": toy.plan.model_copy(update={"seeds": [0, 1]})})
    values = {(tuned(NONE), seed): {"one": one, "two": one[:2]} for seed, one in ONE.items()}
    values |= {(tuned(BOTH), seed): {"one": two, "two": two[:2]} for seed, two in TWO.items()}
    values[Arm("bm25"), 0] = {"one": [0.5] * 4, "two": [0.25, 0.75]}
    values[BOTH, 0] = {"one": [0.2] * 4}
    return Scores(made_results(values), two_seeds)


def row_of(table: str, name: str) -> list[str]:
    found = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    assert len(found) == 1, table
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_the_main_table_holds_means_and_spread_of_arms_with_a_complete_seed(scores: Scores) -> None:
    table = main_table(scores)
    assert "| arm (seeds) | average | one | two |" in table
    assert row_of(table, "BM25 (1/1)") == ["BM25 (1/1)", "**0.500**", "0.500", "0.500"]
    # one: 0.475 and 0.575; two: 0.7 and 0.7.
    name = "EBAE + EBAR → labels (2/2)"
    assert row_of(table, name) == [name, "**0.612**<br>± 0.035", "0.525<br>± 0.071", "0.700<br>± 0.000"]
    # One set of two is there for EBAE + EBAR, none for EBAR.
    assert "| EBAE + EBAR (" not in table
    assert "| EBAR (" not in table
    assert "missing" not in table


def test_an_arm_is_finished_when_every_planned_seed_has_every_set(scores: Scores) -> None:
    assert row_of(TABLES["finished"][1](scores), "raw → labels (2/2)")
    del scores.results["cells"]["toy"][Cell(tuned(NONE), 1).key]
    fewer = Scores(scores.results, scores.protocol)
    assert "| raw → labels (" not in TABLES["finished"][1](fewer)
    assert row_of(main_table(fewer), "raw → labels (1/2)")


def test_a_query_is_averaged_over_the_seeds_before_it_is_tested(scores: Scores) -> None:
    answer = answers(scores, [Question(tuned(NONE), tuned(BOTH))], sets=["one"])[0]
    assert answer.seeds == (0, 1)
    assert answer.test is not None
    first, second = [0.2, 0.2, 0.2, 0.0], [0.6, 0.8, 0.5, 0.2]
    assert answer.test.difference == pytest.approx(0.375)
    assert answer.test.t_p == pytest.approx(stats.ttest_rel(second, first).pvalue)
    # All four differences are positive: 2 of the 16 sign patterns are as extreme.
    assert answer.test.randomization_p == pytest.approx(2 / 16)
    assert (answer.test.wins, answer.test.ties, answer.test.losses) == (4, 0, 0)


def test_the_page_tests_arms_of_the_same_seeds_alone(scores: Scores, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    add(path, scores.results)
    content = study_content(scores, path, "the command")
    by_name = {task.name: task for task in content.tasks}
    assert list(by_name) == ["one", "two", "mean of 2 sets"]
    report = next(report for report in by_name["one"].reports if report.system == "EBAE + EBAR → labels")
    assert report.metrics["nDCG@10"] == pytest.approx(0.525)
    assert report.settings["seeds"] == "2 of 2"
    pair = by_name["mean of 2 sets"].pairs[0][1]
    assert (pair.first, pair.second) == ("raw → labels", "EBAE + EBAR → labels")
    answer = answers(scores, [Question(tuned(NONE), tuned(BOTH))])[0]
    assert answer.test is not None
    assert (pair.difference, pair.t_p) == (answer.test.difference, answer.test.t_p)
    # The mean stands in a column of its own; no average counts it once more.
    assert averages(content.headline) == {}
    page = render_page(content)
    assert "EBAE + EBAR → labels" in page
    assert "the command" in page

    uneven = scores.results
    del uneven["cells"]["toy"][Cell(tuned(NONE), 1).key]
    open_question = study_content(Scores(uneven, scores.protocol), path, "")
    names = {(pair.first, pair.second) for task in open_question.tasks for _, pair in task.pairs}
    assert ("raw → labels", "EBAE + EBAR → labels") not in names
    assert ("BM25", "EBAE + EBAR → labels") in names


def test_the_page_draws_curves_of_two_points_or_more(toy: Protocol, made_results: Make, tmp_path: Path) -> None:
    sets = {"one": [0.2] * 4, "two": [0.4, 0.4]}
    path = tmp_path / "study.json"
    results = made_results({(raw_mean(), 0): sets, (adapted(toy, "both"), 0): sets})
    add(path, results)
    curves = study_content(Scores(results, toy), path, "").sources.curves
    assert [(family.title, dict(family.lines)) for family in curves] == [
        ("Over adaptation steps", {"no labels": {0.0: pytest.approx(0.3), 2.0: pytest.approx(0.3)}})
    ]


def test_a_page_does_not_replace_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--output", str(tmp_path / "study.json"), "--report", str(kept)])
    assert "give a path that ends in .html" in capsys.readouterr().err
    assert kept.read_text(encoding="utf-8") == "mine"


def test_every_set_counts_alike_and_seeds_are_matched(scores: Scores) -> None:
    answer = answers(scores, [Question(tuned(NONE), tuned(BOTH))])[0]
    assert answer.test is not None
    # two: (0.2, 0.2) against (0.6, 0.8).
    assert answer.test.difference == pytest.approx((0.375 + 0.5) / 2)
    del scores.results["cells"]["toy"][
        "adaptation=none recipe=paper steps=0 seed=1 stage=labels pairs=all pooling=slots"
    ]
    alone = answers(Scores(scores.results, scores.protocol), [Question(tuned(NONE), tuned(BOTH))], sets=["one"])[0]
    assert alone.seeds == (0,)
    assert alone.test is not None
    assert alone.test.difference == pytest.approx((0.4 + 0.7 + 0.1 + 0.1) / 4)


def test_against_a_reference_all_seeds_of_the_other_count(scores: Scores) -> None:
    answer = answers(scores, [Question(Arm("bm25"), tuned(BOTH))], sets=["one"])[0]
    assert answer.seeds == (0, 1)
    assert answer.test is not None
    assert answer.test.difference == pytest.approx(0.525 - 0.5)


def test_p_values_are_corrected_over_the_comparisons_that_could_be_made(scores: Scores) -> None:
    asked = [Question(tuned(NONE), tuned(BOTH)), Question(Arm("bm25"), tuned(BOTH)), Question(Arm("minilm"), BOTH)]
    found = answers(scores, asked, sets=["one"])
    assert found[2].test is None
    p_values = [answer.test.t_p for answer in found[:2] if answer.test]
    corrected = [answer.test.t_p_corrected for answer in found[:2] if answer.test]
    assert p_values[0] < p_values[1]
    assert corrected == pytest.approx([2 * p_values[0], max(2 * p_values[0], p_values[1])])


def test_the_tables_of_tests_hold_only_comparisons_of_arms_that_are_there(scores: Scores) -> None:
    table = significance_table(scores)
    lines = [line for line in table.splitlines() if line.startswith("| raw → labels | EBAE + EBAR → labels |")]
    assert re.search(r"\| 2 \| \+0\.438<br>\[", lines[0])
    assert lines[0].endswith("| 6/0/0 |")
    assert "raw, mean pooling" not in table
    assert "over the 2 comparisons of this table" in table
    by_set = answers_by_set(scores, Question(Arm("bm25"), BOTH))
    assert by_set["one"].test is not None
    assert by_set["two"].test is None
    by_set_table = sets_table(scores)
    assert by_set_table.startswith("raw → labels against EBAE + EBAR → labels:")
    assert row_of(by_set_table, "two")[1] == "2"
    assert "raw, mean pooling against" not in by_set_table


def test_the_family_asks_the_studys_question_first_and_nothing_twice() -> None:
    protocol = load_protocol("cpu")
    family = questions(protocol)
    assert family[0] == Question(tuned(adapted(protocol, "none")), tuned(adapted(protocol, "both")))
    assert len(set(family)) == len(family)
    assert all(question.first != question.second for question in family)


def test_arms_have_names_of_their_own() -> None:
    protocol = load_protocol("cpu")
    arms = [adapted(protocol, part, recipe) for part in ADAPTATIONS for recipe in ("paper", "released")]
    arms += [raw_mean(), adapted(protocol, "both", steps=8)]
    arms += [
        tuned(arm, stage, pairs) for arm in arms for stage, pairs in (("labels", -1), ("labels", 48), ("corpus", -1))
    ]
    assert len({arm_name(arm, protocol) for arm in arms}) == len(arms)


def test_curves_begin_with_the_raw_model_and_end_with_all_pairs(scores: Scores) -> None:
    table = steps_table(scores)
    assert "| adaptation steps | 0 | 1 | 2 |" in table
    assert row_of(table, "fine-tuned on labels")[1:] == ["0.175 ± 0.035", "missing", "0.612 ± 0.035"]
    table = labels_table(scores)
    assert "| labeled pairs | 0 | 8 | all |" in table
    assert row_of(table, "adapted")[1:] == ["missing", "missing", "0.612 ± 0.035"]


def test_coverage_counts_seeds_and_names_the_sets_that_are_missing(scores: Scores) -> None:
    table = coverage_table(scores)
    assert row_of(table, "EBAE + EBAR → labels")[1:] == ["2", "2", "–"]
    assert row_of(table, "EBAE + EBAR")[1:] == ["0", "2", "one, two, pairs.tsv"]
    assert row_of(table, "EBAR")[1:] == ["0", "2", "all"]
    assert re.match(r"Cells: 1 in part, 5 done, \d+ missing\.", table)


def test_cells_of_another_budget_are_in_no_table(scores: Scores, toy: Protocol, made_results: Make) -> None:
    scores.results["cells"]["cpu"] = scores.results["cells"].pop("toy")
    assert "0." not in page(Scores(scores.results, toy), "command")


def test_the_page_names_its_command_and_replaces_itself_only(
    scores: Scores, toy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, written = tmp_path / "study.json", tmp_path / "docs" / "study.md"
    add(output, scores.results)
    command = ["--budget", str(toy_file), "--output", str(output), "--tables", str(written)]
    main(command)
    text = written.read_text(encoding="utf-8")
    assert text.startswith("<!-- Written by `python -m benchmarks.study --budget toy")
    assert all(f"\n## {heading}\n" in text for heading, _ in TABLES.values())
    main(command)
    assert written.read_text(encoding="utf-8") == text
    written.write_text("# My own page\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(command)
    assert "was not written by this command" in capsys.readouterr().err
    assert written.read_text(encoding="utf-8") == "# My own page\n"


def test_curves_are_drawn_where_there_is_a_point_and_the_same_every_time(
    scores: Scores, toy: Protocol, tmp_path: Path
) -> None:
    made = draw_curves(scores, tmp_path)
    assert [path.name for path in made] == ["study-toy-steps.svg", "study-toy-labels.svg"]
    first = [path.read_bytes() for path in made]
    assert all(content.count(b"<svg") == 1 and len(content) < 60_000 for content in first)
    assert [path.read_bytes() for path in draw_curves(scores, tmp_path)] == first
    assert draw_curves(Scores(no_results(), toy), tmp_path / "none") == []


def test_a_curve_breaks_where_a_point_is_missing(
    scores: Scores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: dict[str, list[float]] = {}
    monkeypatch.setattr(
        "matplotlib.axes.Axes.errorbar", lambda _, __, means, *, label, **___: drawn.update({label: means})
    )
    draw_curves(scores, tmp_path)
    start, missing, end = drawn["fine-tuned on labels"]
    assert (start, end) == pytest.approx((0.175, 0.6125))
    assert math.isnan(missing)


# -------------------------------------------------------------------------------------------- blocks of docs/results.md


@pytest.fixture(scope="module")
def results_tables() -> ModuleType:
    from docs import results_tables as module

    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["results_tables.py", *map(str, arguments)])
    module.main()


def test_marked_blocks_are_written_and_a_stale_one_is_found(
    results_tables: ModuleType, scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores.results["cells"]["cpu"] = scores.results["cells"].pop("toy")
    scores.results["sets"]["cpu"] = scores.results["sets"].pop("toy")
    add(tmp_path / "study.json", scores.results)
    path = tmp_path / "results.md"
    path.write_text(
        "Before.\n\n<!-- table: study-coverage -->\n<!-- end -->\n\nBetween.\n\n"
        "<!-- table: study-steps gpu -->\nold\n<!-- end -->\nAfter.\n",
        encoding="utf-8",
    )
    folders = ("--page", path, "--results", tmp_path)
    with pytest.raises(SystemExit, match=r"out of date \(study-coverage, study-steps gpu\)"):
        run(results_tables, monkeypatch, "--check", *folders)
    run(results_tables, monkeypatch, *folders)
    text = path.read_text(encoding="utf-8")
    assert all(word in text for word in ("Before.\n\n<!--", "Between.", "\nAfter.\n", "| BM25 | 0 | 1 |", "| 1,000 |"))
    assert "old" not in text
    run(results_tables, monkeypatch, "--check", *folders)
    path.write_text(text.replace("| BM25 | 0 |", "| BM25 | 1 |"), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"out of date \(study-coverage\): run `make docs`"):
        run(results_tables, monkeypatch, "--check", *folders)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("<!-- table: study-man -->\n<!-- end -->\n", "did you mean 'study-main'"),
        ("<!-- table: study-main tpu -->\n<!-- end -->\n", "choose from choices, cpu, gpu"),
        ("<!-- table: study-main -->\nno end\n", "has no <!-- end -->"),
        ("<!-- table: study-main -->\n<!-- table: study-sts -->\n<!-- end -->\n", "'study-main' has no"),
        ("<!-- table: adapted-quality -->\n<!-- end -->\n", "adapt-smollm2-cpu.json"),
    ],
)
def test_a_block_that_cannot_be_made_leaves_the_page_alone(
    block: str, message: str, results_tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.md"
    path.write_text(block, encoding="utf-8")
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(results_tables, monkeypatch, "--page", path, "--results", tmp_path)
    assert path.read_text(encoding="utf-8") == block


def test_the_hybrid_table_averages_the_five_sets_and_tests_against_bm25(
    results_tables: ModuleType, tmp_path: Path
) -> None:
    def row(*values: float) -> dict[str, Any]:
        return {"nDCG@10": fmean(values), "per_query": {str(query): value for query, value in enumerate(values)}}

    # A file of before may hold rows of word vectors, which no command makes any more.
    averaged = {"bm25": row(0.2, 0.4), "min-max(dense+bm25)": row(0.5, 0.6), "rrf(words+sparse)": row(0.9, 0.9)}
    other = {"bm25": row(0.9, 0.9), "min-max(dense+bm25)": row(0.1, 0.1), "rrf(words+sparse)": row(0.9, 0.9)}
    file = {
        "settings": {"sets": {"average": ["one", "two"]}},
        "tasks": {"one": {"rows": averaged}, "two": {"rows": averaged}, "three": {"rows": other}},
    }
    (tmp_path / "hybrid-smollm2-mine-cpu.json").write_text(json.dumps(file), encoding="utf-8")
    table = results_tables.hybrid_table("mine", tmp_path).splitlines()
    assert table[0] == "| set | BM25 | ours + BM25 |"
    assert table[2:6] == [
        "| one | 0.300 | 0.550 |",
        "| two | 0.300 | 0.550 |",
        "| three | 0.900 | 0.100 |",
        "| **average** | **0.300** | **0.550** |",
    ]
    assert table[7] == "| average of | vs BM25 |"
    assert table[9].startswith("| ours + BM25 | +0.250 [")
    assert "words" not in "".join(table)
    assert "over one, two, each set alike" in table[-1]
    for rows in (averaged, other):
        rows |= {"all-MiniLM-L6-v2": row(0.6, 0.8), "min-max(all-MiniLM-L6-v2+bm25)": row(0.7, 0.9)}
    (tmp_path / "hybrid-smollm2-mine-cpu.json").write_text(json.dumps(file), encoding="utf-8")
    table = results_tables.hybrid_table("mine", tmp_path).splitlines()
    assert table[0] == "| set | BM25 | ours + BM25 | all-MiniLM-L6-v2 | all-MiniLM-L6-v2 + BM25 |"
    assert table[5] == "| **average** | **0.300** | **0.550** | **0.700** | **0.800** |"
    assert table[7] == "| average of | vs BM25 | vs MiniLM | vs MiniLM + BM25 |"
    assert re.match(r"\| ours \+ BM25 \| \+0\.250 \[.*<br>p .*\| -0\.150 \[.*\| -0\.250 \[", table[9])
    assert re.match(r"\| all-MiniLM-L6-v2 \| \+0\.400 \[.*\| – \| – \|$", table[10])
    assert re.search(r"\+0\.500 \[.*\| \+0\.100 \[.*\| – \|$", table[11])
    with pytest.raises(results_tables.TableError, match=r"hybrid-smollm2-other-cpu\.json cannot be read"):
        results_tables.hybrid_table("other", tmp_path)

"""Verdicts, settings and figures as text."""

import io
from typing import Any

import pytest
from compared import report
from made_results import LOG
from rich.console import Console

from llama2vec.errors import EvaluationError
from llama2vec.records import Report
from llama2vec.score.comparison import PairedTest, compare_reports
from llama2vec.score.report import text as wording
from llama2vec.score.report.text import Training, markdown_table, score_rows, system_markdown, system_tables

LOW, HIGH = [0.01 * number for number in range(20)], [0.5 + 0.02 * number for number in range(20)]


def compared_pair(first: list[float], second: list[float]) -> PairedTest:
    return compare_reports([report("t", "a", first), report("t", "b", second)], metric="AP").pairs[0]


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (compared_pair(LOW, HIGH), "b is better"),
        (compared_pair(HIGH, LOW), "a is better"),
        (compared_pair(LOW, LOW), "the same on every query"),
        (compared_pair([0.1, 0.2, 0.3], [0.2, 0.1, 0.3]), "no difference shown"),
    ],
)
def test_the_verdict_follows_the_randomization_test(pair: PairedTest, expected: str) -> None:
    assert wording.verdict(pair) == expected
    assert wording.pair_name(pair) == "b − a"


def test_settings_side_by_side_show_what_is_absent_and_what_differs() -> None:
    things: list[dict[str, Any]] = [{"a": {"b": 1, "text": "x\ny"}}, {"a": {"b": 1}, "c": []}]
    rows = {row.name: (list(row.values), row.differs) for row in wording.setting_rows(things)}
    assert rows == {
        "a.b": (["1", "1"], False),
        "a.text": (["x\\ny", wording.NONE], True),
        "c": ([wording.NONE, "[]"], True),
    }


def test_figures_are_named_and_ordered_losses_first() -> None:
    training = Training("runs/a", "adapt", LOG, {"results": {"seconds": 75}})
    names = wording.figure_names([training])
    assert names == ["loss", "loss_next", "loss_self", "validation_loss", "validation_ndcg@10"]
    assert wording.last_figures(training)["loss"] == 7.0
    assert wording.figure_name("validation_ndcg@10") == "nDCG@10, held out"
    assert wording.training_time(training) == "75 s"


def test_an_interval_says_nothing_where_there_is_none() -> None:
    assert (wording.interval(None), wording.interval_text(None, 3), wording.score(-0.5)) == ("", "", "−0.500")


BM25 = Report("tiny/test", "bm25", {"nDCG@10": 0.36, "R@100": 0.731}, {"nDCG@10": (0.33, 0.39)})
OURS = Report("tiny/test", "ours [a|b]", {"nDCG@10": 0.41, "R@100": 0.731}, {"nDCG@10": (0.38, 0.44)})
DENSE_ONLY = Report("tiny/test", "dense", {"MRR@10": 0.5})


def test_the_markdown_table_marks_the_best_of_each_column() -> None:
    assert markdown_table(score_rows([BM25, OURS, DENSE_ONLY])).splitlines() == [
        "| System | nDCG@10 | R@100 | MRR@10 |",
        "| --- | --- | --- | --- |",
        "| bm25 | 0.360 \\[0.330, 0.390\\] | **0.731** | – |",
        "| ours \\[a\\|b\\] | **0.410** \\[0.380, 0.440\\] | **0.731** | – |",
        "| dense | – | – | **0.500** |",
    ]


def test_a_single_system_has_no_best_value() -> None:
    assert markdown_table(score_rows([DENSE_ONLY])).splitlines()[-1] == "| dense | 0.500 |"


def test_the_terminal_table_shows_names_with_brackets_and_intervals() -> None:
    stream = io.StringIO()
    Console(file=stream, width=120).print(*system_tables([BM25, OURS]))
    text = stream.getvalue()
    for part in ("tiny/test", "ours [a|b]", "0.410 [0.380, 0.440]", "95 % bootstrap interval"):
        assert part in text


def test_every_task_has_its_own_section() -> None:
    other = Report("other", "bm25", {"AP": 0.25})
    lines = system_markdown([BM25, other, OURS]).splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## tiny/test", "## other"]
    assert lines[-1] == "| bm25 | 0.250 |"


@pytest.mark.parametrize(
    ("reports", "problem"),
    [
        ([], "no report to show"),
        ([BM25, BM25], "two reports are called 'bm25'"),
        ([BM25, Report("other/test", "x", {})], r"different tasks \(tiny/test, other/test\)"),
    ],
)
def test_reports_that_do_not_belong_together_are_refused(reports: list[Report], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        score_rows(reports)

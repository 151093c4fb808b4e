"""Tables for the terminal and for Markdown."""

import io

import pytest
from rich.console import Console

from llama2vec.errors import EvaluationError
from llama2vec.records import Report
from llama2vec.score.report.tables import markdown_table, score_rows, system_markdown, system_tables

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

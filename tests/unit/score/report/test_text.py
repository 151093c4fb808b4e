"""Verdicts, settings and figures as text."""

from typing import Any

import numpy as np
import pytest
from compared import NEW, OLD, OTHER, QRELS, compare_one, report
from made_results import LOG

from llama2vec.records import Report
from llama2vec.score.comparison import Comparison, ComparisonOptions, PairedTest, compare_reports
from llama2vec.score.report import text as wording
from llama2vec.score.report.text import (
    Training,
    markdown_table,
    score_rows,
    system_markdown,
    system_tables,
    terminal_comparison,
)

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
    assert (wording.interval(None), wording.score(-0.5)) == ("", "−0.500")


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
    text = "\n".join(line for table in system_tables([BM25, OURS]) for line in table.lines(120))
    for part in ("tiny/test", "ours [a|b]", "0.410 [0.380, 0.440]", "95 % bootstrap interval"):
        assert part in text


def test_every_task_has_its_own_section() -> None:
    other = Report("other", "bm25", {"AP": 0.25})
    lines = system_markdown([BM25, other, OURS]).splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## tiny/test", "## other"]
    assert lines[-1] == "| bm25 | 0.250 |"


def terminal(comparison: Comparison) -> str:
    parts = terminal_comparison(comparison)
    return "\n".join(line for part in parts for line in ([part] if isinstance(part, str) else part.lines(None)))


def test_the_terminal_shows_tests_verdicts_and_changed_queries() -> None:
    comparison = compare_one([OLD, NEW, OTHER], QRELS, metric="MRR@10", task="tiny [x]")
    text = " ".join(terminal(comparison).split())
    (pair, _) = comparison.pairs
    for part in (
        "tiny [x] · MRR@10 · 6 judged queries",
        "new − old",
        f"+0.050 {wording.interval(pair.interval, signed=True)}",
        f"{pair.randomization_p_corrected:.4f}",
        "3/1/2",
        "after Holm over the 2 pairs",
        "every sign pattern",
        "new − old: no difference shown (p = ",
        "with 80 % power",
        "+0.750 q2 (0.250 → 1.000)",
        "old 1. other1 [not judged]",
        "new 1. good [relevant (gain 2)]",
        "new: returned nothing",
    ):
        assert part in text, part


def test_passages_that_nobody_asked_for_are_not_missed() -> None:
    comparison = compare_one([OLD, NEW], QRELS, metric="MRR@10", task="tiny", options=ComparisonOptions(passages=0))
    text = terminal(comparison)
    assert "q2" in text
    assert "returned nothing" not in text


def test_the_verdict_names_the_better_system_whichever_comes_first() -> None:
    draw = np.random.default_rng(2)
    low, high = list(draw.random(30) / 10), list(draw.random(30) / 10 + 0.5)
    for values in ((low, high), (high, low)):
        reports = [report("t", name, numbers) for name, numbers in zip("ab", values, strict=True)]
        better = "b is better" if values[0] is low else "a is better"
        text = terminal(compare_reports(reports, metric="AP"))
        assert f"b − a: {better} (p < 0.0001)" in text
        assert "100,000 random sign patterns" in text
        assert "Holm" not in text
    same = [report("t", name, [0.1, 0.2]) for name in "ab"]
    assert "b − a: the same on every query (p = 1.0000)." in terminal(compare_reports(same, metric="AP"))

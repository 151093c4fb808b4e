"""Verdicts, settings and figures as text."""

from typing import Any

import pytest
from compared import report
from made_results import LOG

from llama2vec.score.comparison import PairedTest, compare_reports
from llama2vec.score.report import wording
from llama2vec.score.report.sources import Training

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
    assert names == ["loss", "loss_self", "loss_next", "validation_loss", "validation_ndcg@10"]
    assert wording.last_figures(training)["loss"] == 7.0
    assert wording.figure_name("validation_ndcg@10") == "nDCG@10, held out"
    assert wording.training_time(training) == "1 min 15 s"


def test_an_interval_says_nothing_where_there_is_none() -> None:
    assert (wording.interval(None), wording.interval_text(None, 3), wording.score(-0.5)) == ("", "", "−0.500")

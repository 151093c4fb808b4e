"""The table of the pile: what each search answers, and what it gains and loses against BM25."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[4] / "benchmarks" / "results" / "pile.json"


def _row(**ranks: int | None) -> dict[str, object]:
    return {"answered_by_kind": {"deep": 0, "near": 1}, "first": 1, "MRR@10": 0.5, "ranks": ranks}


def test_a_row_counts_what_is_gained_and_lost_against_bm25() -> None:
    from benchmarks.quality import pile_tables

    rows = {"BM25": _row(a=1, b=3, c=4, d=None), "vectors": _row(a=None, b=1, c=3, d=2)}
    assert pile_tables.table({"rows": rows}).splitlines() == [
        "| search | answered | deep | near | right file first | MRR@10 | against BM25: gained, lost, p |",
        "|---|---|---|---|---|---|---|",
        "| BM25 | **2** of 4 | 0 | 1 | 1 | 0.500 | – |",
        "| vectors | **3** of 4 | 0 | 1 | 1 | 0.500 | 2, 1, 1.0000 |",
    ]


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (9, 1, 22 / 1024), (1, 9, 22 / 1024)])
def test_the_sign_test_is_exact_and_two_sided(gained: int, lost: int, p: float) -> None:
    from benchmarks.quality import pile_tables

    assert pile_tables.sign_test(gained, lost) == pytest.approx(p)


def test_the_committed_counts_agree_with_the_committed_ranks() -> None:
    from benchmarks.quality import pile_tables

    for name, row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"].items():
        right = pile_tables.answered(row["ranks"])
        assert len(right) == row["answered"] == sum(row["answered_by_kind"].values()), name
        assert row["first"] == sum(rank == 1 for rank in row["ranks"].values()), name

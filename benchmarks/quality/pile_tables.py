"""The table of ``pile.py``, which loads no model."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

from benchmarks.quality.whole_sets_tables import WORDS
from benchmarks.tables import markdown
from llama2vec.score.report.text import p_value_text

ENOUGH = 3
"""A question is answered if a right file is among the first ``ENOUGH`` documents."""


def answered(ranks: Mapping[str, int | None]) -> set[str]:
    """Return the questions that have a right file among the first ``ENOUGH`` documents."""
    return {question for question, rank in ranks.items() if rank is not None and rank <= ENOUGH}


def sign_test(gained: int, lost: int) -> float:
    """Return the two-sided p of McNemar's exact test: that this many questions or more fall on one side by chance.

    >>> round(sign_test(9, 1), 4)
    0.0215
    """
    changed = gained + lost
    tail = sum(comb(changed, number) for number in range(min(gained, lost) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def table(results: Mapping[str, Any]) -> str:
    """Return what each search answered, and the questions that it gains and loses against BM25."""
    rows: Mapping[str, Mapping[str, Any]] = results["rows"]
    kinds = list(next(iter(rows.values()))["answered_by_kind"])
    lines = [["search", "answered", *kinds, "right file first", "MRR@10", "against BM25: gained, lost, p"]]
    by_words = answered(rows[WORDS]["ranks"])
    for name, found in rows.items():
        right = answered(found["ranks"])
        gained, lost = len(right - by_words), len(by_words - right)
        lines.append(
            [
                name,
                f"**{len(right)}** of {len(found['ranks'])}",
                *(str(found["answered_by_kind"][kind]) for kind in kinds),
                str(found["first"]),
                f"{found['MRR@10']:.3f}",
                "–" if name == WORDS else f"{gained}, {lost}, {p_value_text(sign_test(gained, lost))}",
            ]
        )
    return markdown(lines)

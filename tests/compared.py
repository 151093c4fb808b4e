"""Runs, reports and comparisons that the tests of comparisons share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.records import Qrels, Report, Run
from llama2vec.score.comparison import Comparison, ComparisonOptions, compare_reports, compare_runs
from llama2vec.score.results import comparison_from_json, read_json

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


def compare_one(runs: Sequence[Run], qrels: Qrels, metric: str = "nDCG@10", **given: Any) -> Comparison:
    """Compare runs by one metric."""
    [comparison] = compare_runs(runs, qrels, metrics=[metric], **given)
    return comparison


def two_tasks() -> list[Comparison]:
    draw = np.random.default_rng(1)
    found = []
    for task, size, shift in (("big", 400, 0.0), ("small", 20, 0.3)):
        base = draw.random(size)
        reports = [report(task, "a", list(base)), report(task, "b", list(base + draw.normal(shift, 0.1, size)))]
        found.append(compare_reports(reports, metric="AP", options=ComparisonOptions(changed=2)))
    return found


def read_comparisons(path: Path) -> list[Comparison]:
    """Return the comparisons in a file of ``compare --output``."""
    data = read_json(path)
    return [comparison_from_json(one, str(path)) for one in data.get("comparisons", [data])]

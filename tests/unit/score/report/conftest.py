"""Small results as the other verbs leave them on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from made_results import EVIL, LOG, NEW, OLD, make_report, write_evaluation, write_training

from llama2vec.score.comparison import ShownPassage, ShownQuery, compare_reports
from llama2vec.score.report.content import Content, build_content
from llama2vec.score.report.sources import read_sources
from llama2vec.score.results import write_comparisons


@pytest.fixture
def evaluation(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder like ``evaluate --output`` and return it."""
    return lambda name, *reports: write_evaluation(tmp_path / name, *reports)


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder like ``adapt`` and return it."""

    def write(name: str, *, finished: bool = True, log: list[Mapping[str, float]] = LOG, rest: str = "") -> Path:
        return write_training(tmp_path / name, finished=finished, log=log, rest=rest)

    return write


@pytest.fixture(scope="package")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Two tasks, two systems of which one has a hostile name, a comparison with passages, a training."""
    folder = tmp_path_factory.mktemp("results")
    comparison = compare_reports([make_report("old", OLD, task="compared"), make_report(EVIL, NEW, task="compared")])
    passage = ShownPassage(1, "p1", 0.5, 2, EVIL, EVIL)
    shown = {query_id: ShownQuery(EVIL, {EVIL: (passage,), "old": ()}) for query_id, *_ in comparison.pairs[0].changed}
    write_comparisons(folder / "cmp.json", [dataclasses.replace(comparison, shown=shown)])
    sources = [
        write_evaluation(folder / "a", make_report("old", OLD)),
        write_evaluation(folder / "b", make_report(EVIL, NEW, note=EVIL)),
        folder / "cmp.json",
        write_training(folder / "adapted"),
    ]
    return build_content(read_sources(sources), title=EVIL, command=f"llama2vec {EVIL}")

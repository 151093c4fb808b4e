"""Small results as the other verbs leave them on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from made_results import LOG, write_evaluation, write_training

from llama2vec.records import Report
from llama2vec.score.tables import reports_to_json, write_json, write_per_query


@pytest.fixture
def evaluation(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder like ``evaluate --output`` and return it."""
    return lambda name, *reports: write_evaluation(tmp_path / name, *reports)


@pytest.fixture
def scores_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a JSON file like ``evaluate --json``, the values per query beside it, and return it."""

    def write(name: str, *reports: Report) -> Path:
        path = tmp_path / f"{name}.json"
        write_json(path, reports_to_json(reports))
        write_per_query(path.with_suffix(".per-query.tsv"), reports)
        return path

    return write


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder like ``adapt`` and return it."""

    def write(name: str, *, finished: bool = True, log: list[Mapping[str, float]] = LOG, rest: str = "") -> Path:
        return write_training(tmp_path / name, finished=finished, log=log, rest=rest)

    return write

"""What an evaluation leaves of each task on disk.

A folder of one evaluation::

    beir-scifact.json             scores, intervals, settings, fingerprints, seconds; written last, it says: done
    beir-scifact.per-query.tsv    query, system, measure, value
    beir-scifact.trec             the run
    .unfinished/                  only while a corpus is encoded: its store, from which a killed evaluation goes on

Tasks of sentence pairs leave the first file alone; averages of several tasks the first two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama2vec.data.trec import write_run
from llama2vec.errors import EvaluationError, OutputExistsError
from llama2vec.manifest import code_version
from llama2vec.records import Report, Run
from llama2vec.score.tables import write_json, write_per_query
from llama2vec.score.tasks import Task

FORMAT = "llama2vec-evaluation"
_VERSION = 1
_KEYS = {"format", "version", "task", "system", "metrics", "intervals", "settings", "seconds"}


@dataclass(frozen=True)
class TaskScore:
    """One task's outcome.

    Attributes:
        task: Which.
        report: Scores; without values per query where ``skipped``.
        seconds: That scoring took.
        skipped: An earlier call scored it.
    """

    task: Task
    report: Report
    seconds: float
    skipped: bool


def read_score(folder: str | Path, task: Task) -> TaskScore | None:
    """Return what an earlier evaluation left of a task; None = it is not finished.

    Raises:
        OutputExistsError: A file of that name is something else.
    """
    saved = _read_saved(Path(folder) / f"{task.stem}.json")
    if saved is None or not all(file.is_file() for file in files_beside(Path(folder), task)):
        return None
    intervals = {measure: (low, high) for measure, (low, high) in saved["intervals"].items()}
    report = Report(saved["task"], saved["system"], saved["metrics"], intervals, settings=saved["settings"])
    return TaskScore(task, report, saved["seconds"], skipped=True)


def write_score(folder: Path, score: TaskScore, run: Run | None) -> None:
    """Write a task's files, the JSON last; ``run`` is None for sentence pairs and averages."""
    report = score.report
    files = files_beside(folder, score.task)
    (folder / f"{score.task.stem}.json").unlink(missing_ok=True)
    if run is not None:
        write_run(run, files[-1], overwrite=True)
    if report.per_query:
        write_per_query(files[0], [report], overwrite=True)
    content = {
        "format": FORMAT,
        "version": _VERSION,
        "task": report.task,
        "system": report.system,
        "metrics": dict(report.metrics),
        "intervals": {measure: list(bounds) for measure, bounds in report.intervals.items()},
        "settings": {**report.settings, "code": code_version()},
        "seconds": round(score.seconds, 3),
    }
    # Last: with it the task is done.
    write_json(folder / f"{score.task.stem}.json", content, overwrite=True)


def per_query(folder: Path, score: TaskScore) -> Mapping[str, Mapping[str, float]]:
    """Return measure → query id → value, from the disk where an earlier call scored the task.

    Raises:
        EvaluationError: The file on disk was changed.
    """
    if not score.skipped:
        return score.report.per_query
    found: dict[str, dict[str, float]] = {}
    file = files_beside(folder, score.task)[0]
    lines = file.read_text(encoding="utf-8").split("\n")
    try:
        for line in filter(None, lines[1:]):
            query_id, _, measure, value = line.split("\t")
            found.setdefault(measure, {})[query_id] = float(value)
    except ValueError:
        raise EvaluationError(f"{file} is not what was written there; score the task again with --overwrite") from None
    return found


def files_beside(folder: Path, task: Task) -> list[Path]:
    """Return what a finished task leaves beside its JSON file."""
    if task.kind == "similarity":
        return []
    suffixes = ("per-query.tsv",) if task.members else ("per-query.tsv", "trec")
    return [folder / f"{task.stem}.{suffix}" for suffix in suffixes]


def _read_saved(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        saved = None
    whole = isinstance(saved, dict) and saved.keys() >= _KEYS
    if not whole or (saved["format"], saved["version"]) != (FORMAT, _VERSION):
        raise OutputExistsError(f"{file} is there already and no evaluation; choose another --output or --overwrite")
    return saved  # type: ignore[no-any-return]

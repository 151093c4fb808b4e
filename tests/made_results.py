"""Scores and a log that the tests of reports share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama2vec.records import Report
from llama2vec.score.results import Result, write_result

EVIL = "<script>alert('x')</script> | $x^2$ & \"q\" _name"
"""A name that must not become markup."""

QUERIES = [f"q{number}" for number in range(8)]
OLD = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
NEW = [0.5, 0.4, 0.2, 0.3, 0.9, 0.8, 0.5, 1.0]


def make_report(system: str, values: list[float], task: str = "tiny/test", **settings: Any) -> Report:
    mean = sum(values) / len(values)
    by_query = dict(zip(QUERIES, values, strict=False))
    bounds = (min(values), max(values))
    return Report(task, system, {"nDCG@10": mean}, {"nDCG@10": bounds}, {"nDCG@10": by_query}, settings)


LOG: list[Mapping[str, float]] = [
    {"step": 5, "loss": 9.0, "loss_self": 8.0, "loss_next": 10.0, "learning_rate": 0.001, "gradient_norm": 2.0},
    {"step": 10, "validation_loss": 7.5, "validation_ndcg@10": 0.25},
    {"step": 10, "loss": 7.0, "loss_self": 6.0, "loss_next": 8.0, "learning_rate": 0.0005, "gradient_norm": 1.0},
]


def write_evaluation(folder: Path, *reports: Report) -> Path:
    for report in reports:
        settings = {"corpus_fingerprint": "c0ffee", **report.settings}
        write_result(folder, Result(replace(report, settings=settings), 1.5))
    return folder


def write_training(
    folder: Path, *, finished: bool = True, log: list[Mapping[str, float]] = LOG, rest: str = ""
) -> Path:
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(line) + "\n" for line in log)
    (folder / "log.jsonl").write_text(lines + rest, encoding="utf-8")
    (folder / "adapt.json").write_text("{}", encoding="utf-8")
    if finished:
        settings = {"model": {"name": folder.name}}
        manifest = {"stage": "adapt", "settings": settings, "results": {"steps": 10, "seconds": 75}}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write_seeds(folder: Path, values: Mapping[int, Mapping[str, list[float]]], verb: str = "run") -> Path:
    """Write what ``run --seeds`` leaves: seed → system → values per query."""
    for seed, systems in values.items():
        home = folder / f"seed-{seed}"
        for system, numbers in systems.items():
            write_evaluation(home / "report" / system, make_report(system, numbers))
        write_training(home / "adapted")
        stages = {
            "adapt": {"state": "finished", "folder": "adapted", "seconds": 75.0},
            "evaluate": {"state": "finished", "folder": "report", "seconds": 3.0},
        }
        run = {"format": "llama2vec-run", "recipe": {}, "stages": stages}
        (home / "run.json").write_text(json.dumps(run), encoding="utf-8")
    figures = {"adapted: nDCG@10": {"values": [0.25] * len(values), "mean": 0.25, "std": 0.125}}
    content = {"format": "llama2vec-seeds", "version": 1, "verb": verb, "seeds": [*values], "figures": figures}
    (folder / "seeds.json").write_text(json.dumps(content), encoding="utf-8")
    return folder

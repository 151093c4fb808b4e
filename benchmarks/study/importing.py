"""Take over finished arms of ``benchmarks/finetuning.py``, where they were made as the budget says."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from llama2vec.errors import DataError
from llama2vec.manifest import digest
from study.cells import Arm, Cell, adapted, raw_mean, tuned
from study.models import adapt_config, differing, finetune_config
from study.protocol import Protocol
from study.results import Results, merged, no_results
from study.run import budget_facts
from study.sets import MEASURE, sampled_set

_NAME = re.compile(r"(?P<start>raw|adapted)\+(?P<stage>labels|corpus)(?:, seed (?P<seed>\d+))?")
# Options that decide scores and that the file holds in its command alone, with their defaults.
_SCORING = {"scored-tokens": 128, "max-queries": 100, "judged": 4, "extra-passages": 300}


def imported(path: Path, protocol: Protocol, data: Path) -> tuple[Results, list[str]]:
    """Return what a results file of ``benchmarks/finetuning.py`` gives to a budget, and why it gives no more.

    An arm is taken where its recorded training settings, its number of training examples and the queries and passages
    it was scored on are those of the cell.

    Args:
        path: The file.
        protocol: The budget.
        data: Data folder, to draw the samples again.

    Returns:
        Results, and a line for every arm or set that was left out.

    Raises:
        DataError: This is no such file, or was scored with other samples.
    """
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        arms, options = file["arms"], _options(file["command"])
        made = {"machine": file["machine"], "versions": file["versions"], "code": file["code"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no results of benchmarks/finetuning.py ({error!r}); give its --output") from None
    _check_scoring(path, options, protocol)
    results, skipped = budget_facts(protocol, data), []
    results["made_by"] = {digest(made)[:12]: made}
    samples = {name: sampled_set(data / name, protocol.sets) for name in protocol.sets.retrieval}
    for name, arm in arms.items():
        cell = _cell(name, protocol)
        problem = "it is no cell of this budget" if cell is None else _problem(cell, arm, arms, protocol)
        if cell is None or problem:
            skipped.append(f"{name}: {problem}")
            continue
        for task, score in arm["tasks"].items():
            if task not in samples:
                skipped.append(f"{name}, {task}: not a set of this budget")
                continue
            facts = samples[task].facts
            if sorted(score["per_query"]) != facts["queries"] or score["passages"] != facts["passages"]:
                skipped.append(f"{name}, {task}: other queries or passages")
                continue
            found = {
                MEASURE: score[MEASURE],
                "interval": score["interval"],
                "values": [score["per_query"][query] for query in facts["queries"]],
                "seconds": score["seconds"],
                "by": digest(made)[:12],
                "source": f"{path.name}: {name}",
            }
            cells = {cell.key: {"scores": {task: found}, "training": dict(_training(cell, arm, arms, made))}}
            new = {**no_results(), "sets": {protocol.name: {task: facts}}, "cells": {protocol.name: cells}}
            results = merged(results, new)
    return results, skipped


def _options(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return {word.removeprefix("--"): value for word, value in pairwise(words) if word.startswith("--")}


def _check_scoring(path: Path, options: Mapping[str, str], protocol: Protocol) -> None:
    sets = protocol.sets
    wanted = {
        "scored-tokens": sets.max_tokens,
        "max-queries": sets.max_queries,
        "judged": sets.judged,
        "extra-passages": sets.extra_passages,
    }
    for name, default in _SCORING.items():
        there = int(options.get(name, default))
        if there != wanted[name]:
            raise DataError(f"{path} was scored with --{name} {there}, budget {protocol.name} has {wanted[name]}")


def _cell(name: str, protocol: Protocol) -> Cell | None:
    """Return the cell that an arm's name stands for."""
    whole: dict[str, Arm] = {
        "bm25": Arm("bm25"),
        "minilm": Arm("minilm"),
        "raw-mean": raw_mean(),
        "adapted": adapted(protocol, "both"),
    }
    if name in whole:
        return Cell(whole[name])
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    start = adapted(protocol, "none" if match["start"] == "raw" else "both")
    return Cell(tuned(start, match["stage"]), int(match["seed"] or 0))


def _problem(cell: Cell, arm: Mapping[str, Any], arms: Mapping[str, Any], protocol: Protocol) -> str:
    """Return why an arm's training is not the cell's; "" where it is."""
    if not cell.arm.is_trained:
        return ""
    if cell.start.arm.is_trained:
        start = arms.get("adapted", {}).get("settings")
        if start is None:
            return "the file does not say how its start was adapted; run the arm 'adapted' too"
        differs = differing(start, adapt_config(protocol, cell.start))
        if differs:
            return f"adapted with {differs[0]} = {differs[1]!r}, not {differs[2]!r}"
    if cell.arm.stage == "none":
        return ""
    pairs = arm["results"]["training_queries"]
    stage = protocol.finetuning
    wanted = stage.pairs_per_source * len(stage.sources)
    if cell.arm.stage == "corpus":
        wanted = stage.corpus_pairs * len(stage.corpus_sets)
    if pairs != wanted:
        return f"fine-tuned on {pairs:,} pairs, not {wanted:,}"
    differs = differing(arm["settings"], finetune_config(protocol, cell, "start", pairs))
    return f"fine-tuned with {differs[0]} = {differs[1]!r}, not {differs[2]!r}" if differs else ""


def _training(
    cell: Cell, arm: Mapping[str, Any], arms: Mapping[str, Any], made: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    stages = []
    if cell.start.arm.is_trained:
        stages.append(("adapt", arms["adapted"]["results"]))
    if cell.arm.stage != "none":
        stages.append(("finetune", arm["results"]))
    for stage, results in stages:
        kept = {key: results.get(key) for key in ("steps", "seconds", "losses")}
        yield stage, {**kept, "code": made["code"], "machine": made["machine"]}

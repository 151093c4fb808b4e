"""The one results file: merging, missing cells, contradictions.

Shape: ``budgets`` (frozen settings), ``inputs`` and ``sets`` (what was read and searched), ``made_by`` (machines and
versions, by digest) and ``cells``, each by budget::

    cells / BUDGET / KEY / scores / SET    nDCG@10, interval, values (ordered as sets/BUDGET/SET/queries), seconds, by
    cells / BUDGET / KEY / training        per stage steps, seconds, losses, code, machine

Everything enters through :func:`merged`, which never replaces an existing value with a different one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama2vec.manifest as manifest
from benchmarks.provenance import made_by
from benchmarks.study.cells import Cell, cell_of
from benchmarks.study.protocol import Protocol
from llama2vec.errors import DataError, EvaluationError
from llama2vec.files import write_atomic
from llama2vec.locks import Lock

Results = dict[str, Any]

_FORMAT = 1
_PARTS = ("budgets", "inputs", "sets", "made_by", "cells")
_LOCK_SECONDS = 60.0
_SAME = ("values", "spearman")


def no_results() -> Results:
    """Return results without a cell."""
    return {"format": _FORMAT, **{part: {} for part in _PARTS}}


def read_results(path: Path) -> Results:
    """Return the results of a file; empty results if it does not exist.

    Raises:
        DataError: The file does not hold results of the study.
    """
    if not path.exists():
        return no_results()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as results of the study ({error}); restore it") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT or any(part not in found for part in _PARTS):
        raise DataError(f"{path} does not hold results of the study (format {_FORMAT}); choose another file")
    for cells in found["cells"].values():
        for key in cells:
            cell_of(key)
    return found


def add(path: Path, new: Results) -> Results:
    """Merge new results into a file, one process at a time; return all of them.

    Raises:
        EvaluationError: They contradict the file.
        DataError: The file cannot be written, or another process keeps it locked.
    """
    lock = Lock(path.with_name(f".{path.name}.lock"))
    deadline = time.monotonic() + 2 * _LOCK_SECONDS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not lock.acquire():
            if time.monotonic() > deadline:
                raise DataError(f"{path} stays locked by another process; is one stopped? ({lock.path})")
            time.sleep(0.05)
        try:
            found = merged(read_results(path), new)
            write_atomic(path, _rendered(found).encode())
        finally:
            lock.release()
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); check the folder and the disk") from None
    return found


def merged(first: Results, second: Results) -> Results:
    """Return the cells of both.

    Raises:
        EvaluationError: A budget has other settings or other data in both, or a cell has other scores on a set.
    """
    result = no_results()
    for part in ("budgets", "inputs", "sets"):
        for budget in sorted({*first[part], *second[part]}):
            result[part][budget] = _agreed(part, budget, first[part].get(budget, {}), second[part].get(budget, {}))
    result["made_by"] = dict(sorted({**second["made_by"], **first["made_by"]}.items()))
    for budget in sorted({*first["cells"], *second["cells"]}):
        there, new = first["cells"].get(budget, {}), second["cells"].get(budget, {})
        result["cells"][budget] = {
            key: _merged_cell(f"{budget}: {key}", there.get(key, {}), new.get(key, {})) for key in {**there, **new}
        }
    return result


def _agreed(part: str, budget: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the union; shared entries must be equal, and so must the frozen settings as a whole."""
    common = {*first, *second} if part == "budgets" and first and second else first.keys() & second.keys()
    differs = manifest.first_difference(
        {key: first.get(key) for key in common}, {key: second.get(key) for key in common}
    )
    if differs:
        name, there, new = differs
        what = {"budgets": "the setting", "inputs": "the data", "sets": "the sample"}[part]
        raise EvaluationError(
            f"budget {budget}: {what} {name} is {_short(there)} there and {_short(new)} here, so their cells cannot be "
            "compared; give one of them another budget name"
        )
    return {**first, **second}


def _merged_cell(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    scores = dict(first.get("scores", {}))
    for task, new in second.get("scores", {}).items():
        there = scores.setdefault(task, new)
        if any(there.get(field) != new.get(field) for field in _SAME):
            raise EvaluationError(
                f"{name}: {task} has the score {_score(there):.4f} there and {_score(new):.4f} here; a cell has one "
                "score, so delete it from one of the files"
            )
    return {"scores": scores, "training": {**second.get("training", {}), **first.get("training", {})}}


def _score(found: Mapping[str, Any]) -> float:
    return float(found.get("nDCG@10", found.get("spearman", float("nan"))))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}…"


def _rendered(value: object, depth: int = 0) -> str:
    """Return JSON with one line for each innermost object: a score is a line."""
    if not isinstance(value, dict) or not any(isinstance(inner, dict) for inner in value.values()):
        return json.dumps(value, ensure_ascii=False)
    space = " " * (depth + 1)
    lines = [f"{space}{json.dumps(key)}: {_rendered(inner, depth + 1)}" for key, inner in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{' ' * depth}}}" + ("" if depth else "\n")


def maker(device: str) -> tuple[str, dict[str, Any]]:
    """Return what computes the scores: machine, versions and code, and a digest of them."""
    facts = made_by(device=device)
    del facts["command"]  # Cells that several commands have scored are of one maker
    return manifest.digest(facts)[:12], facts


def wanted_sets(protocol: Protocol, cell: Cell) -> list[str]:
    """Return the sets of a cell; sentence pairs only for arms without a second stage."""
    pairs = cell.arm.stage == "none" and cell.arm.adaptation != "bm25"
    return [*protocol.sets.retrieval, *(protocol.sets.sts if pairs else [])]


def missing_sets(results: Results, protocol: Protocol, cell: Cell) -> list[str]:
    """Return the sets that a cell has not been scored on."""
    scores = results["cells"].get(protocol.name, {}).get(cell.key, {}).get("scores", {})
    return [name for name in wanted_sets(protocol, cell) if name not in scores]


def state(results: Results, protocol: Protocol, cell: Cell) -> str:
    """Return ``done``, ``missing``, or how many sets are scored, such as ``5 of 9``."""
    wanted, missing = wanted_sets(protocol, cell), missing_sets(results, protocol, cell)
    if not missing:
        return "done"
    return "missing" if len(missing) == len(wanted) else f"{len(wanted) - len(missing)} of {len(wanted)}"

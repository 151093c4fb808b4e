"""How long a cell will take: from measurements on this machine, else from the budget's first guess."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.study.cells import Cell
from benchmarks.study.protocol import ALL_PAIRS, Protocol
from benchmarks.study.results import Results, missing_sets
from llama2vec.manifest import machine


class Pace:
    """Seconds of a training step and of scoring a set, on this machine.

    Args:
        results: Earlier measurements.
        protocol: The budget; only its own cells are used.
    """

    def __init__(self, results: Results, protocol: Protocol) -> None:
        self.protocol = protocol
        self.measured = 0
        found: dict[str, list[float]] = defaultdict(list)
        here = machine()["processor"]
        makers = {name: facts["machine"].get("processor") for name, facts in results["made_by"].items()}
        for key, cell in results["cells"].get(protocol.name, {}).items():
            if not key.startswith("adaptation="):
                continue
            scores = {name: score for name, score in cell["scores"].items() if makers.get(score.get("by")) == here}
            for name, score in scores.items():
                found[name].append(score["seconds"])
            for stage, facts in cell["training"].items():
                if facts["machine"].get("processor") == here:
                    found[stage].append(facts["seconds"] / facts["steps"])
            self.measured += bool(scores)
        self._medians: Mapping[str, float] = {name: median(values) for name, values in found.items()}

    def _of(self, name: str, guess: float) -> float:
        return self._medians.get(name, guess)

    def adaptation(self, cell: Cell) -> float:
        """Return the seconds of the cell's stage 1."""
        return cell.arm.steps * self._of("adapt", self.protocol.estimates.adaptation_step)

    def finetuning(self, cell: Cell) -> float:
        """Return the seconds of the cell's stage 2."""
        stage, arm = self.protocol.finetuning, cell.arm
        if arm.stage == "none":
            return 0.0
        steps = stage.steps if arm.pairs == ALL_PAIRS else stage.steps_for(arm.pairs)
        return steps * self._of("finetune", self.protocol.estimates.finetuning_step)

    def scoring(self, results: Results, cell: Cell) -> float:
        """Return the seconds for the sets that the cell lacks; a reference takes almost none."""
        if cell.arm.is_reference:
            return 10.0 if missing_sets(results, self.protocol, cell) else 0.0
        names = missing_sets(results, self.protocol, cell)
        return sum(self._of(name, self.protocol.estimates.set) for name in names)


def minutes(cells: list[Cell], results: Results, pace: Pace, models: Any) -> dict[Cell, float]:
    """Return how long each unfinished cell takes if they run in this order; reusing a trained start costs nothing.

    Args:
        cells: The cells, in running order.
        results: The results so far.
        pace: The pace of this machine.
        models: Knows by ``is_trained(cell)`` which models exist; None = none do.
    """
    there: set[Cell] = set()
    found = {}
    for cell in cells:
        if not missing_sets(results, pace.protocol, cell):
            continue
        seconds = pace.scoring(results, cell)
        if cell.arm.is_trained:
            for one, cost in ((cell.start, pace.adaptation(cell)), (cell, pace.finetuning(cell))):
                if one not in there and not (models and one.arm.is_trained and models.is_trained(one)):
                    seconds += cost
                there.add(one)
        found[cell] = seconds / 60
    return found

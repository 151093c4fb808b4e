"""Compare a backend's vectors with a saved model's golden vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.config import ModelSettings
from llama2vec.errors import GoldenVectorsError, OutputExistsError
from llama2vec.manifest import versions
from llama2vec.model.device import choose_device
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import (
    GOLDEN_FILE,
    GOLDEN_TEXTS,
    Golden,
    checked_contract,
    load_golden,
    save_golden,
)
from llama2vec.records import SIDES, Side, Vectors
from llama2vec.tables import Table
from llama2vec.verify.backends import EXPORTED, Backend, vectors_of
from llama2vec.verify.diagnosis import Cause, diagnose, largest_difference, lowest_cosine
from llama2vec.verify.plain import PlainModel

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class SideComparison:
    """Largest difference of any number of one side, lowest cosine, row of that difference, and whether it passes.

    The first three are None where widths differ or a number is not finite.
    """

    largest_difference: float | None
    lowest_cosine: float | None
    worst_text: int | None
    passed: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found."""

    model: Path  # Folder of the model
    backend: str  # The program that was asked
    golden: Golden  # The expected vectors
    tolerance: float  # Largest difference that passes
    sides: Mapping[Side, SideComparison]  # Per side
    causes: tuple[Cause, ...] = ()  # Known faults that give exactly these vectors
    hints: tuple[str, ...] = ()  # What is off on sides that no single known fault explains
    unchecked: tuple[str, ...] = ()  # What this backend does not show

    @property
    def passed(self) -> bool:
        """Whether every side is within the tolerance."""
        return all(one.passed for one in self.sides.values())

    def lines(self, width: int | None = None) -> list[str]:
        """Return the verification as lines of text, its table as wide as ``width`` at most."""
        golden = self.golden
        drawn = sum(text not in GOLDEN_TEXTS for text in golden.texts) if self.backend in EXPORTED else 0
        texts = f"{len(golden.texts) - drawn} golden{f' and {drawn} drawn' if drawn else ''} texts"
        lines = [
            f"{texts} per side, D={golden.dimension}, {golden.dtype}, "
            f"contract {golden.contract_hash[:12]}, tolerance {self.tolerance:.2g}",
        ]
        rows = [["side", "largest difference", "lowest cosine", "worst text"]]
        for side, one in self.sides.items():
            cells = ["–"] * 3
            if one.largest_difference is not None:
                cells = [f"{one.largest_difference:.1e}", f"{one.lowest_cosine:.7f}", f"{one.worst_text}"]
            rows.append([side, *cells])
        lines += Table(rows).lines(width)
        lines += [f"not checked: {what}" for what in self.unchecked]
        if self.passed:
            return [*lines, f"PASS: {self.backend} gives the vectors of {self.model}"]
        lines.append(f"FAIL: {self.backend} does not give the vectors of {self.model}")
        lines += [f"cause: {cause.sentence()}" for cause in self.causes]
        if self.hints or not self.causes:
            beyond = "beyond that, " if self.causes else ""
            lines.append(
                f"{beyond}no single known cause: none of the known faults gives these vectors; other weights, "
                "another model, or several faults at once"
            )
        return [*lines, *(f"hint: {hint}" for hint in self.hints)]

    def to_dict(self) -> dict[str, Any]:
        """Return the verification as plain data."""
        return {
            "format": _FORMAT,
            "model": str(self.model),
            "backend": self.backend,
            "passed": self.passed,
            "contract": self.golden.contract_hash,
            "dtype": self.golden.dtype,
            "tolerance": self.tolerance,
            "sides": {side: asdict(one) for side, one in self.sides.items()},
            "causes": [asdict(one) for one in self.causes],
            "hints": list(self.hints),
            "unchecked": list(self.unchecked),
            "versions": versions(),
        }


def verify(
    folder: Path, golden: Golden, backend: Backend, *, tolerance: float | None = None, device: str = "auto"
) -> Verification:
    """Ask a backend for the golden texts, compare, and name the cause where vectors differ.

    Args:
        folder: The saved model.
        golden: Its golden vectors.
        backend: The program to ask: for all texts of a side at once, and one by one where that fails.
        tolerance: Largest difference of a number that passes; None = the golden vectors' own.
        device: Where the search for a cause computes.
    """
    most = golden.tolerance if tolerance is None else tolerance
    given = {side: vectors_of(backend, side, golden.texts) for side in SIDES}
    sides = {side: _compare(golden.vectors[side], vectors, most) for side, vectors in given.items()}
    wrong = {side: given[side] for side, one in sides.items() if not one.passed}
    off = {side: one for side, one in wrong.items() if not _compare(golden.vectors[side], one, golden.tolerance).passed}
    causes: list[Cause] = []
    hints: list[str] = []
    if off:
        asked = off if backend.live else ()
        alone = {side: np.concatenate([vectors_of(backend, side, [one]) for one in golden.texts]) for side in asked}
        causes, hints = diagnose(golden, off, alone, lambda dtype: PlainModel(folder, dtype, choose_device(device)))
    elif wrong:
        what = f"within the golden vectors' own tolerance of {golden.tolerance:.2g}"
        causes = [Cause("rounding", dict.fromkeys(wrong, what), "only the given --tolerance is smaller")]
    return Verification(
        folder, backend.name, golden, most, sides, tuple(causes), tuple(hints), tuple(backend.unchecked)
    )


def _compare(expected: Vectors, given: Vectors, tolerance: float) -> SideComparison:
    if given.shape != expected.shape or not np.isfinite(given).all():
        return SideComparison(None, None, None, False)
    gap = largest_difference(given, expected)
    worst = int(np.abs(given - expected).max(axis=1).argmax())
    return SideComparison(gap, lowest_cosine(given, expected), worst, gap <= tolerance)


def write_golden(folder: Path, *, device: str = "auto", overwrite: bool = False) -> Golden:
    """Make golden vectors for a model saved without any, once our encoder and plain transformers agree.

    Raises:
        OutputExistsError: The folder has golden vectors already.
        ContractError: The folder's contract does not match its weights or tokenizer.
        GoldenVectorsError: The two do not agree.
    """
    contract = checked_contract(folder)
    if (folder / GOLDEN_FILE).exists() and not overwrite:
        raise OutputExistsError(f"{folder / GOLDEN_FILE} exists; pass --overwrite to replace it")
    settings = ModelSettings.model_validate({"dtype": contract.dtype, "device": device})
    encoder = Encoder.load(folder, settings=settings)
    golden = encoder.golden()
    del encoder
    plain = PlainModel(folder, contract.dtype, choose_device(device))
    for side in SIDES:
        gap = largest_difference(golden.vectors[side], plain.embed(side, golden.texts))
        # Not "gap > tolerance": a NaN agrees with nothing.
        if not gap <= golden.tolerance:
            raise GoldenVectorsError(
                f"{folder}: our encoder and plain transformers differ by {gap:.1e} on the {side} side, more than "
                f"{golden.tolerance:.2g}; no golden vectors were written; please report this"
            )
    save_golden(golden, folder)
    return load_golden(folder, contract.hash)

"""Find the known fault whose vectors are those that a backend gave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from llama2vec.model.golden import UNIT_ROUNDOFF, Golden
from llama2vec.records import Side, Vectors
from llama2vec.terminal import counted
from llama2vec.verify.faults import FAULTS, fault_name
from llama2vec.verify.plain import NEAR_COSINE, Case, PlainModel

logger = logging.getLogger(__name__)

PlainLoader = Callable[[str], PlainModel]
"""Number format → the model behind plain transformers."""

_NORM_SLACK = 1e-2
# Two readings that agree to this are the same one in another number format.
_ROUNDED_COSINE = 0.999
_DTYPES = ("float32", "bfloat16", "float16")
# Further matches are as good as the best one, and not merely near it.
_EQUAL_FACTOR = 4.0


class Finding(NamedTuple):
    """A cause found on one side: its name, what is wrong, and what to do."""

    fault: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause, what is wrong on each side that shows it, what to do, and faults that give the same vectors."""

    fault: str
    what: Mapping[Side, str]
    remedy: str
    equal: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Return the cause as one sentence."""
        names = {"query": "queries", "passage": "passages"}
        told = "; ".join(f"{names[side]}: {what}" for side, what in self.what.items())
        if len(self.what) > 1 and len(set(self.what.values())) == 1:
            told = f"queries and passages: {next(iter(self.what.values()))}"
        same = f" (or {' or '.join(self.equal)}: the same vectors for these texts)" if self.equal else ""
        return f"{self.fault}{same}: {told}; {self.remedy}"


def largest_difference(first: Vectors, second: Vectors) -> float:
    """Return the largest absolute difference of any number."""
    return float(np.abs(first - second).max())


def lowest_cosine(first: Vectors, second: Vectors) -> float:
    """Return the lowest cosine of any pair of rows."""
    return float((unit_rows(first) * unit_rows(second)).sum(axis=1).min())


def unit_rows(vectors: Vectors) -> Vectors:
    """Return vectors at unit length; zero stays zero."""
    exact = vectors.astype(np.float64)
    unit: Vectors = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    return unit.astype(np.float32)


def diagnose(
    golden: Golden, given: Mapping[Side, Vectors], alone: Mapping[Side, Vectors], load: PlainLoader
) -> tuple[list[Cause], list[str]]:
    """Name what is wrong on the sides that differ.

    Args:
        golden: The expected vectors.
        given: The backend's vectors, for the sides that differ.
        alone: The same with one request per text; empty for a backend that cannot be asked again.
        load: Loads the model with plain transformers.

    Returns:
        Causes, and hints where no single known fault explains the difference.
    """
    plain: PlainModel | None = None
    found: dict[Side, list[Finding]] = {}
    unnormalized: dict[Side, list[Finding]] = {}
    hints: list[str] = []
    for side, vectors in given.items():
        expected = golden.vectors[side]
        right_alone = _is_right(golden, side, alone.get(side))
        seen = _by_looking(golden, side, vectors)
        if seen is not None:
            found[side] = [_BATCHING if right_alone else seen]
            continue
        straight = vectors
        if _is_unnormalized(vectors):
            # Judge length apart from direction: a missing normalization may accompany any other fault.
            straight = unit_rows(vectors)
            unnormalized[side] = [_NOT_NORMALIZED]
            if largest_difference(straight, expected) <= golden.tolerance:
                continue
        if plain is None:
            logger.info("vectors differ; trying %d known faults (a minute on a small model)", len(FAULTS))
            plain = load(golden.dtype)
        case = Case(plain, side, golden.texts, expected, straight)
        matches = _matching_faults(case, golden.tolerance)
        if not matches:
            matches = [_BATCHING] if right_alone else list(_precision(golden, case, load))
        if matches:
            found[side] = matches
            continue
        rows = int((np.abs(straight - expected).max(axis=1) > golden.tolerance).sum())
        cosine = lowest_cosine(straight, expected)
        hints.append(f"{side}: {rows} of {counted(len(expected), 'text')} differ, lowest cosine {cosine:.4f}")
    return [*joined_causes(unnormalized), *joined_causes(found)], hints


_NOT_NORMALIZED = Finding("missing normalization", "the vectors' lengths are not 1", "divide each vector by its length")
_BATCHING = Finding(
    "batching",
    "each text gives the right vector by itself, and another one when it is sent with others",
    "send one text per request, or correct the program's padding, attention mask and positions",
)


def _by_looking(golden: Golden, side: Side, vectors: Vectors) -> Finding | None:
    """Name what can be seen without the model: NaNs, another width, rounded vectors."""
    expected = golden.vectors[side]
    if not np.isfinite(vectors).all():
        return Finding("not finite", "NaN or infinite numbers", "compute in float32 or bfloat16 instead of float16")
    width = vectors.shape[1]
    if width < golden.dimension and lowest_cosine(vectors, expected[:, :width]) > NEAR_COSINE:
        what = f"only the first {width} of {golden.dimension} numbers are given"
        return Finding("truncated dimensions", what, "ask for the full width (dimensions, truncate_dim)")
    if width != golden.dimension:
        what = f"vectors have {width} numbers, not {golden.dimension}"
        return Finding("other width", what, "serve this model; another one answers")
    exact = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    for dtype, roundoff in UNIT_ROUNDOFF.items():
        is_rounded = bool((exact.to(getattr(torch, dtype)).float() == exact).all())
        if is_rounded and (np.abs(vectors - expected) <= roundoff * np.abs(expected) + golden.tolerance).all():
            what = f"the finished vectors were rounded to {dtype}"
            return Finding("rounded vectors", what, "send and store float32, or accept it with --tolerance")
    return None


def _is_unnormalized(vectors: Vectors) -> bool:
    lengths = np.linalg.norm(vectors, axis=1)
    # A zero vector keeps its length whatever the normalization.
    return bool((np.abs(lengths - 1) > _NORM_SLACK)[lengths > _NORM_SLACK].any())


def _is_right(golden: Golden, side: Side, vectors: Vectors | None) -> bool:
    if vectors is None or vectors.shape != golden.vectors[side].shape or not np.isfinite(vectors).all():
        return False
    straight = unit_rows(vectors) if _is_unnormalized(vectors) else vectors
    return largest_difference(straight, golden.vectors[side]) <= golden.tolerance


def _matching_faults(case: Case, tolerance: float) -> list[Finding]:
    """Return the fault that gives the backend's vectors, and those that match equally well.

    Matches in another number format count only if they are much nearer than the golden vectors.
    """
    exact: list[tuple[float, Finding]] = []
    rounded: list[tuple[float, Finding]] = []
    to_golden = largest_difference(case.given, case.golden)
    for fault in FAULTS:
        for what, vectors in fault.candidates(case):
            if vectors is None or not np.isfinite(vectors).all():
                continue
            if largest_difference(vectors, case.golden) <= tolerance:
                continue
            gap = largest_difference(vectors, case.given)
            finding = Finding(fault_name(fault, case), what, fault.remedy)
            if gap <= tolerance:
                exact.append((gap, finding))
            elif gap < to_golden / _EQUAL_FACTOR and _every_row_is_rounded(vectors, case.given, tolerance):
                rounded.append((gap, finding))
    found = exact or rounded
    least = min((gap for gap, _ in found), default=0.0)
    return [finding for gap, finding in found if gap <= max(_EQUAL_FACTOR * least, tolerance / 10)]


def _every_row_is_rounded(expected: Vectors, given: Vectors, tolerance: float) -> bool:
    least = float(np.abs(expected - given).max(axis=1).min())
    return least > tolerance and lowest_cosine(expected, given) > _ROUNDED_COSINE


def _precision(golden: Golden, case: Case, load: PlainLoader) -> Iterator[Finding]:
    """Name the number format whose arithmetic gives differences of this size."""
    gap = largest_difference(case.given, case.golden)
    if not _every_row_is_rounded(case.golden, case.given, golden.tolerance):
        return
    for dtype in _DTYPES:
        if dtype == golden.dtype:
            continue
        try:
            usual = largest_difference(load(dtype).embed(case.side, case.texts), case.golden)
        except RuntimeError:
            continue  # this processor does not multiply in that format
        if usual / 3 <= gap <= usual * 3:
            what = f"every vector is off by up to {gap:.1e}, as {dtype} arithmetic is here ({usual:.1e})"
            remedy = f"compute in {golden.dtype}, as the golden vectors were, or accept it with --tolerance"
            yield Finding("lower precision" if golden.dtype == "float32" else "other precision", what, remedy)
            return


def joined_causes(found: Mapping[Side, list[Finding]]) -> list[Cause]:
    """Join the findings of both sides; a fault that explains all of them comes first."""
    names = [list(dict.fromkeys(finding.fault for finding in findings)) for findings in found.values()]
    shared = [name for name in names[0] if all(name in others for others in names)] if names else []
    chosen = [shared] if shared else names
    causes = []
    for name, *equal in {tuple(one): None for one in chosen}:
        shown = {
            side: next(finding for finding in findings if finding.fault == name)
            for side, findings in found.items()
            if any(finding.fault == name for finding in findings)
        }
        what = {side: finding.what for side, finding in shown.items()}
        causes.append(Cause(name, what, next(iter(shown.values())).remedy, tuple(equal)))
    return causes

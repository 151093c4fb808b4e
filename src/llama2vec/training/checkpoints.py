"""Checkpoints that can be trusted: a whole one names the hash of each of its files, and every weight is finite."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch

from llama2vec.errors import TrainingError
from llama2vec.files import file_sha256, write_json

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_COMPLETE = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Write down, as the last file of a checkpoint, what its files must be."""
    files = {
        path.relative_to(checkpoint).as_posix(): file_sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != _COMPLETE
    }
    write_json(checkpoint / _COMPLETE, {"step": step_of(checkpoint), "sha256": files})


def has_checkpoint(folder: Path) -> bool:
    """Return whether a training folder holds anything to resume from."""
    return any((folder / CHECKPOINTS).glob(f"checkpoint-*/{_COMPLETE}"))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a training folder; half-written and damaged newer ones are deleted."""
    found = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=step_of, reverse=True)
    whole: Path | None = None
    for path in found:
        if not (path / _COMPLETE).is_file():
            shutil.rmtree(path, ignore_errors=True)
        elif whole is None:
            fault = _fault(path)
            if fault:
                logger.warning("%s: %s; resuming from an earlier checkpoint", path, fault)
                shutil.rmtree(path, ignore_errors=True)
            else:
                whole = path
    return whole


def check_checkpoint(checkpoint: Path) -> None:
    """Raise a TrainingError if a file of a checkpoint is missing or has changed."""
    fault = _fault(checkpoint)
    if fault:
        raise TrainingError(f"{checkpoint}: {fault}; delete the output folder and train again")


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint's folder, else -1."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def check_finite(model: torch.nn.Module, where: str) -> None:
    """Raise a TrainingError that names the first weight that is not finite; ``where`` opens it, such as ``step 3``."""
    for name, weight in model.named_parameters():
        # The extremes carry NaN and infinity along, without a mask as large as the weight.
        if weight.numel() and not all(bool(torch.isfinite(value)) for value in torch.aminmax(weight.detach())):
            raise TrainingError(
                f"{where}: the weight {name} is not finite and was not saved; lower optimizer.learning_rate"
            )


def _fault(checkpoint: Path) -> str:
    """Say what is wrong with a complete checkpoint, "" where nothing is; those of older versions have no hashes."""
    try:
        expected = json.loads((checkpoint / _COMPLETE).read_bytes()).get("sha256", {})
        changed = [name for name, sha256 in expected.items() if file_sha256(checkpoint / name) != sha256]
    except (OSError, ValueError, AttributeError):
        return "a file is missing or cannot be read"
    return f"{changed[0]} has changed since it was written" if changed else ""

"""What a training leaves on the disk: its log and picture, and checkpoints that can be trusted."""

from __future__ import annotations

import json
import logging
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llama2vec.errors import MissingDependencyError, TrainingError
from llama2vec.files import file_sha256, write_atomic, write_json
from llama2vec.processes import first_fault, on_first_process, process_count
from llama2vec.training.settings import OptimizerSettings

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LOG_FILE, LOSS_PLOT = "log.jsonl", "loss.png"
CHECKPOINTS = "checkpoints"
_COMPLETE = "complete.json"
_IS_OF_WEIGHTS = re.compile(r"\.safetensors(\.index\.json)?$|(^|/)config\.json$")


def truncate_log(path: Path, step: int) -> None:
    """Drop log lines after the step that training resumes from, and a last line that a kill cut short."""
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] <= step]
        write_atomic(path, "".join(kept).encode())


def read_log(path: Path) -> list[dict[str, float]]:
    """Read ``log.jsonl``; lines that a kill cut short are skipped."""
    lines: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        with suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def validation_at(log: Path, step: int) -> dict[str, float]:
    """Return the validation figures of one step."""
    lines = [line for line in read_log(log) if line["step"] == step]
    return {name: value for line in lines for name, value in line.items() if name.startswith("validation_")}


def draw_losses(log: Path, picture: Path) -> None:
    """Draw the curves of a log as PNG: losses, and on axes of their own the other validation figures."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("the loss curve needs matplotlib; pip install 'llama2vec[train]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_log(log)
    names = sorted({name for line in lines for name in line if "loss" in name or name.startswith("validation_")})
    losses, figures = [name for name in names if "loss" in name], [name for name in names if "loss" not in name]
    panels = [("loss (nats)", losses), *([("on held-out queries", figures)] if figures else [])]
    plot, axes = pyplot.subplots(len(panels), figsize=(8, 2 + 2.5 * len(panels)), layout="constrained", squeeze=False)
    colors: dict[str, str] = {}
    for axis, (label, shown) in zip(axes[:, 0], panels, strict=True):
        for name in shown:
            points = [(line["step"], line[name]) for line in lines if name in line]
            base = name.removeprefix("validation_")
            color, held_out = colors.setdefault(base, f"C{len(colors)}"), {"linestyle": "--", "marker": "o"}
            style = held_out if base != name else {}
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), color=color, **style)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if shown:
            axis.legend(fontsize=8)
    axes[-1, 0].set_xlabel("optimizer step")
    plot.savefig(picture, dpi=130)
    pyplot.close(plot)


def mark_complete(checkpoint: Path, examples_a_step: int) -> None:
    """Write down, as the last file of a checkpoint, what its files must be, and how large its steps were."""
    files = {
        path.relative_to(checkpoint).as_posix(): file_sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != _COMPLETE
    }
    made = {"step": step_of(checkpoint), "examples_a_step": examples_a_step, "sha256": files}
    write_json(checkpoint / _COMPLETE, made)


def step_size_kept(
    settings: OptimizerSettings, folder: Path, changes: Literal["batch_size", "accumulation"]
) -> OptimizerSettings:
    """Let a training that another number of processes resumes take steps of as many examples as before.

    ``changes`` names what is divided among them: the batch of the second stage, in which all examples meet, or the
    number of batches of the first.

    Raises:
        TrainingError: This many processes cannot share a step evenly.
    """
    before = on_first_process(lambda: _examples_a_step(folder))
    now = settings.batch_size * settings.accumulation * process_count()
    if before in (0, now):
        return settings
    of_one, rest = divmod(getattr(settings, changes) * before, now)
    if rest:
        raise TrainingError(
            f"{folder}: its checkpoint has steps of {before} examples, which {process_count()} processes cannot share "
            f"by changing optimizer.{changes}; start as many processes as before, or a divisor of them"
        )
    logger.info("resumed by %d processes: optimizer.%s is %d, for steps as before", process_count(), changes, of_one)
    return settings.model_copy(update={changes: of_one})


def _examples_a_step(folder: Path) -> int:
    """Return the size of the steps that the newest whole checkpoint names; 0 = there is none, or it names none."""
    checkpoint = last_checkpoint(folder)
    return json.loads((checkpoint / _COMPLETE).read_bytes()).get("examples_a_step", 0) if checkpoint else 0


def remove_older(checkpoint: Path, keep: int, best_step: int | None) -> None:
    """Leave the newest whole checkpoints: ``keep`` in all, the best one and ``checkpoint`` in any case.

    Called once ``checkpoint`` is marked as complete, so that a kill at any moment leaves one to resume from.
    """
    found = _marked_complete(checkpoint.parent)
    older = [path for path in found if path != checkpoint]
    best = [path for path in older if step_of(path) == best_step]
    others = [path for path in older if path not in best]
    for path in others[: max(0, len(found) - max(keep, 1 + len(best)))]:
        (path / _COMPLETE).unlink()  # First: what remains after a kill is not taken for a whole one
        shutil.rmtree(path)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a training folder holds anything to resume from."""
    return any((folder / CHECKPOINTS).glob(f"checkpoint-*/{_COMPLETE}"))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a training folder; half-written and damaged newer ones are deleted."""
    whole: Path | None = None
    for path in sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=step_of, reverse=True):
        is_complete = (path / _COMPLETE).is_file()
        fault = _fault(path) if is_complete and whole is None else ""
        if fault:
            logger.warning("%s: %s; resuming from an earlier checkpoint", path, fault)
        if fault or not is_complete:
            shutil.rmtree(path, ignore_errors=True)
        elif whole is None:
            whole = path
    return whole


def _marked_complete(checkpoints: Path) -> list[Path]:
    """Return the folders that are marked as complete, the oldest step first."""
    return sorted((file.parent for file in checkpoints.glob(f"checkpoint-*/{_COMPLETE}")), key=step_of)


def check_checkpoint(checkpoint: Path) -> None:
    """Raise a TrainingError if a file of a checkpoint is missing or has changed."""
    fault = _fault(checkpoint)
    if fault:
        raise TrainingError(f"{checkpoint}: {fault}; delete the output folder and train again")


def check_weights(checkpoint: Path) -> None:
    """Raise a TrainingError if what a checkpoint's weights are loaded from is missing or has changed.

    The state of optimizer and trainer, which only a resumed training needs, does not matter.
    """
    fault = _fault(checkpoint, _IS_OF_WEIGHTS)
    if fault:
        remedy = "delete it and the later ones beside it, and run the same command again"
        raise TrainingError(f"{checkpoint}: {fault}; {remedy}")


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the checkpoint of a step in a training folder."""
    return folder / CHECKPOINTS / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint's folder, else -1."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def check_finite(model: torch.nn.Module, where: str) -> None:
    """Raise a TrainingError that names the first weight that is not finite; ``where`` opens it, such as ``step 3``."""
    found = first_fault(next((name for name, weight in model.named_parameters() if not _is_finite(weight)), ""))
    if found:
        raise TrainingError(
            f"{where}: the weight {found} is not finite and was not saved; lower optimizer.learning_rate"
        )


def _is_finite(weight: torch.Tensor) -> bool:
    import torch

    # A process holds only its share of a divided weight, and a small weight has fewer shares than processes.
    own: torch.Tensor = getattr(weight.detach(), "to_local", weight.detach)()
    # The extremes carry NaN and infinity along, without a mask as large as the weight.
    return not own.numel() or all(bool(torch.isfinite(value)) for value in torch.aminmax(own))


def _fault(checkpoint: Path, names: re.Pattern[str] = re.compile("")) -> str:
    """Say what is wrong with a complete checkpoint, "" where nothing is; those of older versions have no hashes.

    ``names`` limits the check to files whose names it finds.
    """
    try:
        expected = json.loads((checkpoint / _COMPLETE).read_bytes()).get("sha256", {})
        checked = {name: sha256 for name, sha256 in expected.items() if names.search(name)}
        changed = [name for name, sha256 in checked.items() if file_sha256(checkpoint / name) != sha256]
    except (OSError, ValueError, AttributeError):
        return "a file is missing or cannot be read"
    return f"{changed[0]} has changed since it was written" if changed else ""

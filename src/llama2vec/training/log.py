"""``log.jsonl``, one line of figures per interval, and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama2vec.errors import MissingDependencyError
from llama2vec.files import write_atomic

LOG_FILE, LOSS_PLOT = "log.jsonl", "loss.png"


def truncate_log(path: Path, step: int) -> None:
    """Drop log lines after the step that training resumes from, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = [line for line in read_log(path) if line["step"] <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def read_log(path: Path) -> list[dict[str, float]]:
    """Read ``log.jsonl``; lines that a kill cut short are skipped."""
    lines: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def validation_at(log: Path, step: int) -> dict[str, float]:
    """Return the validation figures of one step."""
    lines = [line for line in read_log(log) if line["step"] == step] if log.exists() else []
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
    rows = 1 + bool(figures)
    plot, axes = pyplot.subplots(rows, figsize=(8, 4.5 + 2.5 * (rows - 1)), layout="constrained", squeeze=False)
    _draw_curves(axes[0, 0], lines, losses, "loss (nats)")
    axes[0, 0].set_title("Training" if lines else "no steps yet")
    if figures:
        _draw_curves(axes[1, 0], lines, figures, "on held-out queries")
    axes[-1, 0].set_xlabel("optimizer step")
    plot.savefig(picture, dpi=130)
    pyplot.close(plot)


def _draw_curves(axes: Any, lines: Sequence[Mapping[str, float]], names: Sequence[str], label: str) -> None:
    colors: dict[str, Any] = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        base = name.removeprefix("validation_")
        held_out = name != base
        style: dict[str, Any] = {"linestyle": "--", "marker": "o", "markersize": 4} if held_out else {"linewidth": 1.5}
        (curve,) = axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), color=colors.get(base), **style)
        colors.setdefault(base, curve.get_color())
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize=8)

"""The learning curves as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.study.cells import REFERENCES, Arm
from benchmarks.study.comparisons import Scores, arm_name, spread
from benchmarks.study.protocol import ALL_PAIRS
from benchmarks.study.tables import labels_points, steps_points
from llama2vec.errors import MissingDependencyError

CURVES: dict[str, tuple[str, Callable[[Scores], Mapping[str, Mapping[int, Arm]]]]] = {
    "steps": ("adaptation steps (EBAE + EBAR)", steps_points),
    "labels": ("labeled pairs", labels_points),
}


def draw_curves(scores: Scores, folder: Path) -> list[Path]:
    """Draw each learning curve that has a point, with its spread over the seeds and the references as lines.

    Returns:
        The pictures (SVG); equal results make equal files.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError("the curves need matplotlib; pip install 'llama2vec[train]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "study"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (label, points) in CURVES.items():
        plot, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
        if _draw(axes, scores, points(scores)):
            axes.set(xlabel=label, ylabel=f"nDCG@10, mean of {len(scores.protocol.sets.average)} sets", ylim=(0, None))
            axes.grid(alpha=0.3)
            plot.legend(fontsize=8, ncols=4, loc="outside lower center")
            made.append(folder / f"study-{scores.protocol.name}-{name}.svg")
            plot.savefig(made[-1], metadata={"Date": None})
        pyplot.close(plot)
    return made


def _draw(axes: Any, scores: Scores, curves: Mapping[str, Mapping[int, Arm]]) -> bool:
    """Draw the points that exist; return whether there were any."""
    all_points = list(next(iter(curves.values())))
    ticks = {point: place for place, point in enumerate(all_points)}
    drawn = False
    for name, arms in curves.items():
        found = {point: list(scores.average(arm).values()) for point, arm in arms.items()}
        if any(found.values()):
            drawn = True
            # A line breaks where a point is missing.
            means = [fmean(values) if values else nan for values in found.values()]
            apart = [spread(values) or 0.0 for values in found.values()]
            axes.errorbar([ticks[point] for point in found], means, yerr=apart, marker="o", capsize=3, label=name)
    for reference, style in zip(REFERENCES, ("--", ":"), strict=True):
        found_reference = scores.average(Arm(reference))
        if drawn and found_reference:
            label = arm_name(Arm(reference), scores.protocol)
            axes.axhline(found_reference[0], color="grey", linestyle=style, label=label)
    # Evenly spaced: the numbers about double from point to point, and 0 has no logarithm.
    axes.set_xticks(range(len(all_points)), ["all" if point == ALL_PAIRS else f"{point:,}" for point in all_points])
    return drawn

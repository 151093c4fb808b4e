"""The scores of many tasks as one table, with averages where they mean something."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from llama2vec.score.task_scores import TaskScore


def task_table(scores: Sequence[TaskScore]) -> Table:
    """Return a row per task, its headline measure first, and a row per average of :func:`averages`."""
    title = Text(scores[0].report.system) if scores else None
    table = Table(title=title, caption="[95 % bootstrap interval]")
    for column in ("Task", "Measure", "Score", "Others", "Time"):
        table.add_column(column, justify="right" if column in ("Score", "Time") else "left")
    for score in scores:
        headline, *others = score.report.metrics
        interval = score.report.intervals.get(headline)
        bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        rest = ", ".join(f"{measure} {score.report.metrics[measure]:.3f}" for measure in others)
        value = Text.assemble((f"{score.report.metrics[headline]:.3f}", "bold"), (bounds, "dim"))
        time = "kept" if score.skipped else f"{score.seconds:,.0f} s"
        table.add_row(*(Text(cell) for cell in (score.task.name, headline)), value, Text(rest), Text(time))
    found = averages(scores)
    if found:
        table.add_section()
    for (family, measure), (count, mean) in found.items():
        cells = (f"average of {count} {family} tasks", measure, f"{mean:.3f}", "", "")
        table.add_row(*(Text(cell) for cell in cells))
    return table


def averages(scores: Sequence[TaskScore]) -> dict[tuple[str, str], tuple[int, float]]:
    """Return (family, headline measure) → how many tasks and their mean; families of one task are left out.

    A family is the first part of a named task's name (``beir``), or ``own`` for folders and files of one's own. Tasks
    that another task of the list averages count through it alone.
    """
    inside = {member for score in scores for member in score.task.members}
    groups: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        if score.task.name not in inside:
            family = score.task.name.partition("/")[0] if score.task.published else "own"
            headline = next(iter(score.report.metrics))
            groups.setdefault((family, headline), []).append(score.report.metrics[headline])
    return {key: (len(values), fmean(values)) for key, values in groups.items() if len(values) > 1}

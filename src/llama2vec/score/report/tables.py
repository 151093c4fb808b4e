"""Tables for the terminal and for Markdown, and scores as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table
from rich.text import Text

from llama2vec.errors import EvaluationError
from llama2vec.records import Report
from llama2vec.score.report import wording
from llama2vec.score.tasks import TaskScore

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, what stands beside it less prominently, and whether it is the best of its column."""

    text: str
    interval: str = ""
    best: bool = False


Rows = Sequence[Sequence[str | Cell]]
"""The first row is the head."""


def terminal_table(rows: Rows, title: str = "", caption: str = "") -> Table:
    """Return a table for the terminal, the first column left-aligned and the others right-aligned."""
    # Text objects, because square brackets in strings would be read as markup.
    table = Table(title=Text(title) if title else None, caption=Text(caption) if caption else None)
    table.title_justify = table.caption_justify = "left"
    for place, name in enumerate(rows[0]):
        table.add_column(_text(name), justify="right" if place else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(_text, row))
    return table


def _text(cell: str | Cell) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    return Text.assemble((cell.text, "bold" if cell.best else ""), (f" {cell.interval}".rstrip(), "dim"))


def markdown_table(rows: Rows) -> str:
    """Return a Markdown table; the best values are bold.

    >>> print(markdown_table([["System", "AP"], ["a|b", Cell("0.500", "[0.4, 0.6]", best=True)]]))
    | System | AP |
    | --- | --- |
    | a\\|b | **0.500** \\[0.4, 0.6\\] |
    """
    lines = [f"| {' | '.join(map(_markdown, row))} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]])


def _markdown(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return escape_markdown(cell)
    text = escape_markdown(cell.text)
    return f"{f'**{text}**' if cell.best else text} {escape_markdown(cell.interval)}".rstrip()


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line.

    >>> escape_markdown("a*b  [c]")
    'a\\\\*b \\\\[c\\\\]'
    """
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def score_rows(reports: Sequence[Report]) -> list[list[str | Cell]]:
    """Return a row per system and a column per metric.

    Raises:
        EvaluationError: No report, reports of different tasks, or two of one system.
    """
    check_one_task(reports)
    metrics = list(dict.fromkeys(metric for report in reports for metric in report.metrics))
    best = best_values(reports, metrics)
    rows: list[list[str | Cell]] = [["System", *metrics]]
    rows += [[report.system, *(score_cell(report, name, best.get(name)) for name in metrics)] for report in reports]
    return rows


def score_cell(report: Report | None, metric: str, best: float | None = None) -> Cell:
    """Return a mean with its interval; a dash if there is none."""
    if report is None or metric not in report.metrics:
        return Cell(wording.NONE)
    value = report.metrics[metric]
    return Cell(wording.score(value), wording.interval(report.intervals.get(metric)), value == best)


def best_values(reports: Iterable[Report], metrics: Iterable[str]) -> dict[str, float]:
    """Return each metric's highest value; empty for a single system."""
    reports = list(reports)
    if len(reports) < 2:
        return {}
    found = {name: [report.metrics[name] for report in reports if name in report.metrics] for name in metrics}
    return {name: max(values) for name, values in found.items() if values}


def check_one_task(reports: Sequence[Report]) -> None:
    """Check that reports are of one task and of different systems."""
    if not reports:
        raise EvaluationError("there is no report to show; evaluate a run first")
    tasks = list(dict.fromkeys(report.task for report in reports))
    if len(tasks) > 1:
        raise EvaluationError(f"the reports belong to different tasks ({', '.join(tasks)}); show one task at a time")
    systems = [report.system for report in reports]
    twice = next((system for system in systems if systems.count(system) > 1), None)
    if twice is not None:
        raise EvaluationError(f"two reports are called '{twice}'; give each run its own tag")


def system_tables(reports: Sequence[Report]) -> list[Table]:
    """Return a terminal table per task, with a row per system."""
    tasks = dict.fromkeys(report.task for report in reports)
    caption = "[95 % bootstrap interval]"
    return [terminal_table(score_rows([one for one in reports if one.task == task]), task, caption) for task in tasks]


def system_markdown(reports: Sequence[Report]) -> str:
    """Return a Markdown section per task, with a row per system."""
    tasks = dict.fromkeys(report.task for report in reports)
    tables = {task: markdown_table(score_rows([one for one in reports if one.task == task])) for task in tasks}
    return "\n\n".join(f"## {escape_markdown(task)}\n\n{table}" for task, table in tables.items())


def task_table(scores: Sequence[TaskScore]) -> Table:
    """Return one system's scores: a row per task, its headline metric first, and a row per average."""
    rows: list[list[str | Cell]] = [["Task", "Metric", "Score", "Others", "Time"]]
    for score in scores:
        headline, *others = score.report.metrics
        cell = score_cell(score.report, headline, score.report.metrics[headline])
        rest = ", ".join(f"{metric} {wording.score(score.report.metrics[metric])}" for metric in others)
        time = "kept" if score.result.kept else f"{score.result.seconds:,.0f} s"
        rows.append([score.task.name, headline, cell, rest, time])
    for (family, metric), (count, mean) in family_averages(scores).items():
        rows.append([f"average of {count} {family} tasks", metric, wording.score(mean), "", ""])
    return terminal_table(rows, scores[0].report.system if scores else "", "[95 % bootstrap interval]")


def family_averages(scores: Sequence[TaskScore]) -> dict[tuple[str, str], tuple[int, float]]:
    """Return (family, headline metric) → number of tasks and their mean, for families of two tasks or more.

    A family is the first part of a named task's name (``beir``), or ``own`` for users' own folders and files. Tasks
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

"""Numbers, verdicts, settings and tables as text, the same in every format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from llama2vec.errors import EvaluationError
from llama2vec.records import Report
from llama2vec.score.comparison import PairedTest
from llama2vec.score.tasks import TaskScore

MINUS, NONE = "−", "–"
ALPHA = 0.05
"""A corrected p-value below this counts as a difference."""

_FIGURES = {
    "loss": "loss", "loss_self": "EBAE (self)", "loss_next": "EBAR (next)", "learning_rate": "learning rate",
    "gradient_norm": "gradient norm", "mrr@10": "MRR@10", "ndcg@10": "nDCG@10",
}  # fmt: skip

HELD_OUT = "validation_"


@dataclass(frozen=True, slots=True)
class Training:
    """A training, finished or under way."""

    where: str  # The folder
    stage: str  # ``adapt`` or ``finetune``; "" if the folder does not say
    log: Sequence[Mapping[str, float]]  # The lines of ``log.jsonl``, with ``step`` and figures by name; at least one
    manifest: Mapping[str, Any]  # What ``manifest.json`` says; empty until the training is finished

    @property
    def state(self) -> str:
        """``finished``, or not."""
        return "finished" if self.manifest else "not finished"

    @property
    def steps(self) -> int:
        """Steps logged so far."""
        return int(self.log[-1]["step"])


def score(value: float) -> str:
    """Return a score with three decimals.

    >>> score(-0.0504)
    '−0.050'
    """
    return f"{value:.3f}".replace("-", MINUS)


def difference(value: float) -> str:
    """Return a difference with its sign.

    >>> difference(0.05), difference(-0.05), difference(0.0)
    ('+0.050', '−0.050', '0.000')
    """
    return f"{value:+.3f}".replace("-", MINUS) if round(value, 3) else "0.000"


def interval(bounds: tuple[float, float] | None, *, signed: bool = False) -> str:
    """Return an interval in brackets, "" for none.

    >>> interval((-0.1, 0.2), signed=True)
    '[−0.100, +0.200]'
    """
    form = difference if signed else score
    return f"[{form(bounds[0])}, {form(bounds[1])}]" if bounds else ""


def interval_text(bounds: tuple[float, float] | None, digits: int) -> str:
    """Return an interval in brackets after a space, "" for none.

    >>> interval_text((-0.1, 0.25), 2)
    ' [-0.10, 0.25]'
    """
    return f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else ""


def p_value_text(value: float | None) -> str:
    """Return a p-value.

    >>> p_value_text(0.03), p_value_text(1e-9), p_value_text(None)
    ('0.0300', '<0.0001', '–')
    """
    if value is None:
        return NONE
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def verdict(pair: PairedTest) -> str:
    """Say which of two systems is better, by the corrected p-value of the randomization test."""
    if pair.wins + pair.losses == 0:
        return "the same on every query"
    if pair.randomization_p_corrected >= ALPHA:
        return "no difference shown"
    return f"{pair.second if pair.difference > 0 else pair.first} is better"


def pair_name(pair: PairedTest) -> str:
    """Return the name of a difference."""
    return f"{pair.second} {MINUS} {pair.first}"


def training_time(training: Training) -> str:
    """Return how long a finished training took in its last process."""
    results = training.manifest.get("results")
    seconds = results.get("seconds") if isinstance(results, Mapping) else None
    return f"{seconds:,.0f} s" if isinstance(seconds, int | float) else NONE


def judgment(gain: int | None) -> str:
    """Return what the judgments say about a passage.

    >>> judgment(None), judgment(0), judgment(2)
    ('not judged', 'judged not relevant', 'relevant (gain 2)')
    """
    if gain is None:
        return "not judged"
    return f"relevant (gain {gain})" if gain > 0 else "judged not relevant"


def figure_name(name: str) -> str:
    """Return the name of a logged figure.

    >>> figure_name("validation_loss_next")
    'EBAR (next), held out'
    """
    base = name.removeprefix(HELD_OUT)
    return _FIGURES.get(base, base.replace("_", " ")) + (", held out" if base != name else "")


def figure_names(trainings: Sequence[Training]) -> list[str]:
    """Return the figures that are drawn, losses first, and training before held-out text."""
    names = {name for training in trainings for line in training.log for name in line}
    kept = [name for name in names if name.startswith(("loss", HELD_OUT))]
    return sorted(kept, key=lambda name: ("loss" not in name, name.startswith(HELD_OUT), len(name), name))


def last_figures(training: Training) -> dict[str, float]:
    """Return the last value of each figure."""
    found: dict[str, float] = {}
    for line in training.log:
        found |= line
    return {name: found[name] for name in figure_names([training])}


class SettingRow(NamedTuple):
    """One setting, dotted, and its value in each of several settings; NONE where it is absent."""

    name: str
    values: list[str]
    differs: bool


def setting_rows(things: Sequence[Mapping[str, Any]]) -> list[SettingRow]:
    """Return several settings side by side.

    >>> [(row.name, row.values) for row in setting_rows([{"a": {"b": 1}}, {"a": {"b": 2, "c": "x"}}])]
    [('a.b', ['1', '2']), ('a.c', ['–', 'x'])]
    """
    flat = [_flat(thing) for thing in things]
    rows = {name: [one.get(name, NONE) for one in flat] for name in dict.fromkeys(key for one in flat for key in one)}
    return [SettingRow(name, values, len(set(values)) > 1) for name, values in rows.items()]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
            # As in code, so that line breaks are visible.
            found[f"{prefix}{key}"] = text.replace("\n", "\\n")
    return found


_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, its interval in a lighter style, and whether it is the best of its column."""

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
    """Return a mean with its interval; a dash if unknown."""
    if report is None or metric not in report.metrics:
        return Cell(NONE)
    value = report.metrics[metric]
    return Cell(score(value), interval(report.intervals.get(metric)), value == best)


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
        raise EvaluationError("no report to show; evaluate a run first")
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
    for one in scores:
        headline, *others = one.report.metrics
        cell = score_cell(one.report, headline, one.report.metrics[headline])
        rest = ", ".join(f"{metric} {score(one.report.metrics[metric])}" for metric in others)
        time = "kept" if one.result.kept else f"{one.result.seconds:,.0f} s"
        rows.append([one.task.name, headline, cell, rest, time])
    for (family, metric), (count, mean) in family_averages(scores).items():
        rows.append([f"average of {count} {family} tasks", metric, score(mean), "", ""])
    return terminal_table(rows, scores[0].report.system if scores else "", "[95 % bootstrap interval]")


def family_averages(scores: Sequence[TaskScore]) -> dict[tuple[str, str], tuple[int, float]]:
    """Return (family, headline metric) → number of tasks and their mean, for families of two tasks or more.

    A family is the first part of a named task's name (``beir``), or ``own`` for users' own folders and files. Tasks
    that another task of the list averages count through it alone.
    """
    inside = {member for one in scores for member in one.task.members}
    groups: dict[tuple[str, str], list[float]] = {}
    for one in scores:
        if one.task.name not in inside:
            family = one.task.name.partition("/")[0] if one.task.published else "own"
            headline = next(iter(one.report.metrics))
            groups.setdefault((family, headline), []).append(one.report.metrics[headline])
    return {key: (len(values), fmean(values)) for key, values in groups.items() if len(values) > 1}

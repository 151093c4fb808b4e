"""The report as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama2vec.records import Report
from llama2vec.score.comparison_report import markdown_comparison
from llama2vec.score.report import wording
from llama2vec.score.report.content import Content, Task, averages, best_values
from llama2vec.score.report.sources import Training

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")


def render_markdown(content: Content) -> str:
    """Return the report as Markdown: what the page says, without its plots."""
    parts = [f"# {_plain(content.title)}", _plain(wording.summary(content))]
    if len(content.headline) > 1:
        parts += ["## Overview", _overview(content)]
    for task in content.tasks:
        parts += _task(task)
    if content.trainings:
        parts += ["## Training", _trainings(content.trainings)]
        parts.append(_settings({training.where: training.manifest for training in content.trainings}))
    for run in content.runs:
        rows = [["Stage", "State", "Time"]]
        for name, stage in run.stages.items():
            rows.append([name, str(stage.get("state", wording.NONE)), wording.stage_time(stage)])
        parts += [f"## Run {_plain(run.where)}", _table(rows), _settings({run.where: run.settings})]
    parts += ["## How this report was made", _code(content.command)]
    parts.append(_table([["File", "Kind", "SHA-256"], *([one.path, one.kind, one.sha256] for one in content.files)]))
    parts.append(_plain(" · ".join(f"{name} {version}" for name, version in content.versions.items())))
    return "\n\n".join(part for part in parts if part) + "\n"


# ------------------------------------------------------------------------------------------------------- Markdown


def _overview(content: Content) -> str:
    tasks = content.headline
    means = averages(tasks)
    columns = [f"{task.label} · {task.measures[0]}" for task in tasks]
    rows = [["System", *columns, *(["average"] if means else [])]]
    best = [best_values(task.reports, task.measures).get(task.measures[0]) for task in tasks]
    for system in content.systems:
        found = [next((one for one in task.reports if one.system == system), None) for task in tasks]
        cells = [_cell(report, task.measures[0], top) for report, task, top in zip(found, tasks, best, strict=True)]
        mean = [wording.score(means[system]) if system in means else wording.NONE] if means else []
        rows.append([system, *cells, *mean])
    return _table(rows)


def _task(task: Task) -> list[str]:
    best = best_values(task.reports, task.measures)
    rows = [["System", *task.measures]]
    for report in task.reports:
        rows.append([report.system, *(_cell(report, measure, best.get(measure)) for measure in task.measures)])
    parts = [f"## {_plain(task.label)}", _table(rows), "Brackets hold 95 % intervals; the best of a column is bold."]
    parts += [f"> {_plain(note)}" for note in task.notes]
    # Below this report's headings, not beside them; texts of users have no line that begins with a hash.
    parts += [re.sub("^#", "##", markdown_comparison(one).strip(), flags=re.MULTILINE) for one in task.comparisons]
    parts.append(_settings({report.system: report.settings for report in task.reports}))
    return parts


class _Bold(str):
    """A cell that is shown bold."""


def _cell(report: Report | None, measure: str, best: float | None) -> str:
    if report is None or measure not in report.metrics:
        return wording.NONE
    text = f"{wording.score(report.metrics[measure])} {wording.interval(report.intervals.get(measure))}".strip()
    return _Bold(text) if report.metrics[measure] == best else text


def _trainings(trainings: Sequence[Training]) -> str:
    names = wording.figure_names(trainings)
    rows = [["Folder", "Stage", "State", "Steps", "Time", *map(wording.figure_name, names)]]
    for training in trainings:
        last = wording.last_figures(training)
        facts = [training.where, training.stage or wording.NONE, training.state, f"{training.steps:,}"]
        figures = [wording.score(last[name]) if name in last else wording.NONE for name in names]
        rows.append([*facts, wording.training_time(training), *figures])
    return _table(rows)


def _settings(things: Mapping[str, Mapping[str, Any]]) -> str:
    kept = {name: settings for name, settings in things.items() if settings}
    # Indented, so that nothing inside can end the block.
    return f"Settings:\n\n{_code(json.dumps(kept, indent=2, ensure_ascii=False, default=str))}" if kept else ""


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = []
    for row in rows:
        cells = [f"**{_plain(cell)}**" if isinstance(cell, _Bold) else _plain(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
        if len(lines) == 1:
            lines.append(f"|{' --- |' * len(row)}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))

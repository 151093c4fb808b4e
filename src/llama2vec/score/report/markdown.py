"""The report in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama2vec.score.report import wording
from llama2vec.score.report.comparisons import markdown_comparison
from llama2vec.score.report.content import Content, TaskResults, averages
from llama2vec.score.report.sources import Training
from llama2vec.score.report.tables import Cell, best_values, escape_markdown, markdown_table, score_cell, score_rows


def render_markdown(content: Content) -> str:
    """Return the report in Markdown: what the page says, without its plots."""
    parts = [f"# {escape_markdown(content.title)}", escape_markdown(content.summary)]
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
        parts += [f"## Run {escape_markdown(run.where)}", markdown_table(rows), _settings({run.where: run.settings})]
    parts += ["## How this report was made", _code(content.command)]
    parts.append(
        markdown_table([["File", "Kind", "SHA-256"], *([one.path, one.kind, one.sha256] for one in content.files)])
    )
    parts.append(escape_markdown(" · ".join(f"{name} {version}" for name, version in content.versions.items())))
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(content: Content) -> str:
    tasks = content.headline
    means = averages(tasks)
    columns = [f"{task.label} · {task.metrics[0]}" for task in tasks]
    rows: list[list[str | Cell]] = [["System", *columns, *(["average"] if means else [])]]
    best = [best_values(task.reports, task.metrics).get(task.metrics[0]) for task in tasks]
    for system in content.systems:
        found = [next((one for one in task.reports if one.system == system), None) for task in tasks]
        cells = [score_cell(report, task.metrics[0], top) for report, task, top in zip(found, tasks, best, strict=True)]
        mean = [wording.score(means[system]) if system in means else wording.NONE] if means else []
        rows.append([system, *cells, *mean])
    return markdown_table(rows)


def _task(task: TaskResults) -> list[str]:
    rows = score_rows(task.reports)
    parts = [
        f"## {escape_markdown(task.label)}",
        markdown_table(rows),
        "Brackets hold 95 % intervals; the best of a column is bold.",
    ]
    parts += [f"> {escape_markdown(note)}" for note in task.notes]
    # One level below this report's headings; texts of users have no line that begins with a hash.
    parts += [re.sub("^#", "##", markdown_comparison(one).strip(), flags=re.MULTILINE) for one in task.comparisons]
    parts.append(_settings({report.system: report.settings for report in task.reports}))
    return parts


def _trainings(trainings: Sequence[Training]) -> str:
    names = wording.figure_names(trainings)
    rows = [["Folder", "Stage", "State", "Steps", "Time", *map(wording.figure_name, names)]]
    for training in trainings:
        last = wording.last_figures(training)
        facts = [training.where, training.stage or wording.NONE, training.state, f"{training.steps:,}"]
        figures = [wording.score(last[name]) if name in last else wording.NONE for name in names]
        rows.append([*facts, wording.training_time(training), *figures])
    return markdown_table(rows)


def _settings(things: Mapping[str, Mapping[str, Any]]) -> str:
    kept = {name: settings for name, settings in things.items() if settings}
    # Indented, so that no content can end the block.
    return f"Settings:\n\n{_code(json.dumps(kept, indent=2, ensure_ascii=False, default=str))}" if kept else ""


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())

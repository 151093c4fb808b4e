"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama2vec.errors import MissingDependencyError
from llama2vec.score.comparison import Comparison, PairedTest, ShownQuery
from llama2vec.score.report import plots
from llama2vec.score.report import text as wording
from llama2vec.score.report.content import Content, TaskResults, averages
from llama2vec.score.report.plots import Curve, CurveFamily, Estimate, Plot
from llama2vec.score.report.sources import SeedTable
from llama2vec.score.report.text import Training, best_values, score_cell
from llama2vec.tables import Cell
from llama2vec.terminal import counted

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_PAIRS = 6  # Pairs of systems that are drawn in each task; the table has all


def render_page(content: Content) -> str:
    """Return the page; equal content gives equal text.

    Texts of queries, passages and names are escaped, and the page's policy forbids scripts and requests. Raises a
    MissingDependencyError without jinja2 or matplotlib.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingDependencyError("HTML reports need jinja2; pip install 'llama2vec[report]'") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals["say"] = wording
    environment.filters["markup"] = Markup
    return environment.get_template("page.html.jinja").render(
        content=content,
        overview=_overview(content),
        tasks=[_task_view(number, task) for number, task in enumerate(content.tasks, start=1)],
        seeds=[_seeds_view(table) for table in content.sources.seeds],
        trainings=_trainings_view(content.sources.trainings),
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
    )


def _overview(content: Content) -> dict[str, Any]:
    """Return the table of systems and tasks, where there are several tasks, and the plots of all of them.

    A line stands for a system; where there are more tasks than systems, for a task, so that the table stays narrow.
    """
    tasks, systems = content.headline, content.systems
    by_task = [{report.system: report for report in task.reports} for task in tasks]
    best = [best_values(task.reports, task.metrics).get(task.metrics[0]) for task in tasks]
    means = averages(tasks)
    rows: list[Sequence[str | Cell]] = []
    for system in systems:
        cells = [
            score_cell(reports.get(system), task.metrics[0], top)
            for task, reports, top in zip(tasks, by_task, best, strict=True)
        ]
        mean = means.get(system)
        top = len(means) > 1 and mean == max(means.values())
        average = Cell(wording.NONE if mean is None else wording.score(mean), best=top)
        rows.append([system, *cells, *([average] if means else [])])
    figures = [_scores_plot("overview", tasks)] if len(tasks) > 1 and len(systems) > 1 else []
    pairs = [found for task in tasks for found in task.pairs]
    figures += [_forest("forest", pairs)] if len(tasks) > 1 and len(pairs) > 1 else []
    figures += [_family_plot(number, family) for number, family in enumerate(content.sources.curves, start=1)]
    columns = [Cell(task.label, task.metrics[0]) for task in tasks]
    head: Sequence[str | Cell] = ["System", *columns, *([Cell("average")] if means else [])]
    table, best_of = [head, *rows], "column"
    if len(tasks) > len(systems):
        table, best_of = [["Task", *systems], *[*zip(*table, strict=True)][1:]], "line"
    caption = f"First metric of each task, with 95 % intervals; the best of each {best_of} is bold"
    return {"rows": table if len(tasks) > 1 else [], "caption": caption, "figures": figures}


def _family_plot(number: int, family: CurveFamily) -> Plot:
    curves = [
        Curve(name, [*points], [*points.values()], series, dots=True)
        for series, (name, points) in enumerate(family.lines.items())
    ]
    caption = f"{family.axis} over {family.across}, one line each: {', '.join(family.lines)}."
    return plots.curves_plot(
        curves, key=f"curves-{number}", title=family.title, axis=family.axis, caption=caption, across=family.across
    )


def _scores_plot(key: str, tasks: Sequence[TaskResults]) -> Plot:
    """Draw the scores of all systems, under a heading for each of several tasks."""
    metrics = {task.metrics[0] for task in tasks}
    axis = metrics.pop() if len(metrics) == 1 else "score"
    names = [task.label if axis != "score" else f"{task.label} ({task.metrics[0]})" for task in tasks]
    groups: dict[str, list[Estimate]] = {}
    for name, task in zip(names, tasks, strict=True):
        metric, known = task.metrics[0], [report for report in task.reports if task.metrics[0] in report.metrics]
        groups[name if len(tasks) > 1 else ""] = [
            Estimate(report.system, report.metrics[metric], report.intervals.get(metric)) for report in known
        ]
    caption = "Score of each system with its 95 % interval; further right is better."
    return plots.estimates_plot(groups, key=key, title="Scores", axis=axis, caption=caption)


def _forest(key: str, pairs: Sequence[tuple[Comparison, PairedTest]]) -> Plot:
    """Draw differences: tasks under each pair of systems, or where there is one task, systems under their reference."""
    tasks, metrics = ({getattr(one, part) for one, _ in pairs} for part in ("task", "metric"))
    groups: dict[str, list[Estimate]] = {}
    for comparison, pair in pairs:
        task = comparison.task or "unnamed task"
        suffix = f" ({comparison.metric})" if len(metrics) > 1 else ""
        if len(tasks) > 1:
            heading, label = wording.pair_name(pair), f"{task}{suffix}"
        else:
            # Two long names would not both fit beside the plot.
            heading, label = f"against {pair.first}{suffix}", pair.second
        groups.setdefault(heading, []).append(Estimate(label, pair.difference, pair.interval))
    axis = f"difference in {metrics.pop()}" if len(metrics) == 1 else "difference"
    sides = ("system named first", "other") if len(tasks) > 1 else ("named system", "one in the heading")
    caption = (
        f"Mean differences with 95 % intervals. Right of 0 the {sides[0]} is better, left of it the {sides[1]}; "
        "what crosses 0 is grey."
    )
    return plots.estimates_plot(groups, key=key, title="Differences", axis=axis, caption=caption, zero=True)


def _task_view(number: int, task: TaskResults) -> dict[str, Any]:
    queries = {len(values) for report in task.reports for values in report.per_query.values()}
    drawn = task.pairs[:_MOST_PAIRS]
    return {
        "id": f"task-{number}",
        "task": task,
        "rows": wording.score_rows(task.reports),
        "queries": queries.pop() if len(queries) == 1 else None,
        "figures": [
            *([_scores_plot(f"task-{number}-scores", [task])] if len(task.reports) > 1 else []),
            *([_forest(f"task-{number}-forest", task.pairs)] if len(task.pairs) > 1 else []),
        ],
        "pairs": [_pair_view(f"task-{number}-pair-{place}", *found) for place, found in enumerate(drawn, start=1)],
        "not_drawn": len(task.pairs) - len(drawn),
        "settings": wording.setting_rows([report.settings for report in task.reports]),
        "comparison_settings": wording.setting_rows([comparison.settings for comparison in task.comparisons]),
    }


def _pair_view(key: str, comparison: Comparison, pair: PairedTest) -> dict[str, Any]:
    names, metric = (pair.first, pair.second), comparison.metric
    before, after = (comparison.per_query[name] for name in names)
    values = list(before.values()), [after[query_id] for query_id in before]
    changed = []
    for query_id, first, second in pair.changed:
        shown = comparison.shown.get(query_id, ShownQuery("", {}))
        answers = [(name, shown.answers[name]) for name in names if shown.answers.get(name)]
        row = {"id": query_id, "text": shown.text, "first": first, "second": second, "difference": second - first}
        changed.append({**row, "answers": answers})
    figure = plots.difference_plot(*values, key=f"{key}-bars", names=names, metric=metric)
    return {"pair": pair, "metric": metric, "figures": [figure], "changed": changed}


def _seeds_view(table: SeedTable) -> dict[str, Any]:
    rows: list[Sequence[str | Cell]] = [["Figure", *(f"seed {seed}" for seed in table.seeds), "mean", "std"]]
    for name, figure in table.figures.items():
        numbers = [*figure.values, figure.mean, figure.std]
        rows.append([name, *(Cell(wording.NONE if one is None else wording.score(one)) for one in numbers)])
    return {"title": f"{table.where}: {table.verb}, {counted(len(table.seeds), 'seed')}", "rows": rows}


def _trainings_view(trainings: Sequence[Training]) -> dict[str, Any]:
    names = wording.figure_names(trainings)
    drawn = dict.fromkeys(name.removeprefix(wording.HELD_OUT) for name in (*names, "learning_rate", "gradient_norm"))
    plots_by_figure = [_training_plot(number, trainings, name) for number, name in enumerate(drawn, start=1)]
    rows = []
    for training in trainings:
        last = wording.last_figures(training)
        cells = [wording.score(last[name]) if name in last else wording.NONE for name in names]
        rows.append({"training": training, "cells": cells})
    return {
        "columns": [wording.figure_name(name) for name in names],
        "rows": rows,
        "figures": [plot for plot in plots_by_figure if plot],
        "settings": wording.setting_rows([training.manifest for training in trainings]),
    }


def _training_plot(number: int, trainings: Sequence[Training], name: str) -> Plot | None:
    """Draw a logged figure: a line per training, dashed on held-out text."""
    curves = []
    for series, training in enumerate(trainings):
        for held_out in (False, True):
            key = f"{wording.HELD_OUT}{name}" if held_out else name
            points = {line["step"]: line[key] for line in training.log if key in line}
            label = f"{training.where}, held out" if held_out else training.where
            curves += [Curve(label, [*points], [*points.values()], series, held_out)] if points else []
    if not curves:
        return None
    axis = wording.figure_name(name)
    caption = f"{wording.sentence_start(axis)} over the optimizer steps."
    return plots.curves_plot(
        curves, key=f"training-{number}", title=caption.partition(" over")[0], axis=axis, caption=caption
    )

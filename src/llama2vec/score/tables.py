"""Reports as JSON, TSV, Markdown and terminal tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from llama2vec.errors import EvaluationError
from llama2vec.files import write_output
from llama2vec.records import Report


def reports_to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """Return the reports of one task as plain data; :func:`write_per_query` has the values of single queries.

    >>> reports_to_json([Report("cranfield/test", "bm25", {"nDCG@10": 0.36}, {"nDCG@10": (0.33, 0.39)})])
    {'task': 'cranfield/test', 'systems': {'bm25': {'nDCG@10': 0.36}}, 'intervals': {'bm25': {'nDCG@10': [0.33, 0.39]}}, 'settings': {'bm25': {}}}

    Raises:
        EvaluationError: No report, reports of different tasks, or two of one system.
    """  # noqa: E501
    _check_together(reports)
    return {
        "task": reports[0].task,
        "systems": {report.system: dict(report.metrics) for report in reports},
        "intervals": {
            report.system: {measure: list(bounds) for measure, bounds in report.intervals.items()} for report in reports
        },
        "settings": {report.system: dict(report.settings) for report in reports},
    }


def write_json(path: str | Path, data: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write data as indented JSON; the file appears whole or not at all. Paths and such are written as text.

    Raises:
        OutputExistsError: The file is there already and ``overwrite`` is not given.
        EvaluationError: A number that JSON does not know (NaN, infinity).
        DataError: The file cannot be written.
    """
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError as error:
        raise EvaluationError(f"{path}: a value cannot be written as JSON ({error}); correct it") from None
    write_output(Path(path), text + "\n", overwrite=overwrite)


def write_per_query(path: str | Path, reports: Sequence[Report], *, overwrite: bool = False) -> None:
    """Write one line per query, system and measure: a TSV with the header ``query  system  measure  value``.

    Raises:
        OutputExistsError: The file is there already and ``overwrite`` is not given.
        EvaluationError: No report, reports of different tasks, or two of one system.
        DataError: The file cannot be written.
    """
    _check_together(reports)
    lines = ["query\tsystem\tmeasure\tvalue"]
    for report in reports:
        for measure, values in report.per_query.items():
            lines += [f"{query_id}\t{report.system}\t{measure}\t{value!r}" for query_id, value in values.items()]
    write_output(Path(path), "\n".join(lines) + "\n", overwrite=overwrite)


def markdown_table(reports: Sequence[Report], measures: Sequence[str] | None = None) -> str:
    """Return a Markdown table: a row per system, each column's best value bold, the 95 % interval beside it.

    >>> print(markdown_table([Report("t", "bm25", {"AP": 0.3}, {"AP": (0.2, 0.4)}), Report("t", "ours", {"AP": 0.5})]))
    | System | AP |
    | --- | --- |
    | bm25 | 0.300 [0.200, 0.400] |
    | ours | **0.500** |

    Args:
        reports: Of one task.
        measures: Columns; None = every measure of the reports.

    Raises:
        EvaluationError: No report, reports of different tasks, or two of one system.
    """
    columns, best = _columns(reports, measures)
    lines = [["System", *columns], ["---"] * (len(columns) + 1)]
    for report in reports:
        cells = []
        for measure in columns:
            value, interval = _cell(report, measure)
            cells.append(f"**{value}**{interval}" if report.metrics.get(measure) == best[measure] else value + interval)
        lines.append([report.system, *cells])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rich_table(reports: Sequence[Report], measures: Sequence[str] | None = None) -> Table:
    """Return the same table for the terminal, titled with the task.

    Raises:
        EvaluationError: No report, reports of different tasks, or two of one system.
    """
    columns, best = _columns(reports, measures)
    table = Table(title=Text(reports[0].task) if reports[0].task else None, caption="[95 % bootstrap interval]")
    table.add_column("System")
    for measure in columns:
        table.add_column(Text(measure), justify="right")
    for report in reports:
        # Text, not strings: square brackets would be read as markup.
        cells = [Text(report.system)]
        for measure in columns:
            value, interval = _cell(report, measure)
            style = "bold" if report.metrics.get(measure) == best[measure] else ""
            cells.append(Text.assemble((value, style), (interval, "dim")))
        table.add_row(*cells)
    return table


def _check_together(reports: Sequence[Report]) -> None:
    if not reports:
        raise EvaluationError("there is no report to show; evaluate a run first")
    tasks = list(dict.fromkeys(report.task for report in reports))
    if len(tasks) > 1:
        raise EvaluationError(f"the reports belong to different tasks ({', '.join(tasks)}); show one task at a time")
    systems = [report.system for report in reports]
    twice = next((system for system in systems if systems.count(system) > 1), None)
    if twice is not None:
        raise EvaluationError(f"two reports are called '{twice}'; give each run a tag of its own")


def _columns(reports: Sequence[Report], measures: Iterable[str] | None) -> tuple[list[str], dict[str, float]]:
    """Return the columns and the best mean of each."""
    _check_together(reports)
    columns = list(dict.fromkeys(measures or (measure for report in reports for measure in report.metrics)))
    best = {}
    for measure in columns:
        values = [report.metrics[measure] for report in reports if measure in report.metrics]
        if not values:
            raise EvaluationError(f"no report has the measure '{measure}'; choose from {', '.join(reports[0].metrics)}")
        best[measure] = max(values)
    return columns, best


def _cell(report: Report, measure: str) -> tuple[str, str]:
    """Return a mean and its interval as text."""
    if measure not in report.metrics:
        return "–", ""
    interval = report.intervals.get(measure)
    return f"{report.metrics[measure]:.3f}", f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""

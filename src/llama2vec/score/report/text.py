"""Numbers, verdicts, settings and tables as text, the same in every format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from llama2vec.records import Report
from llama2vec.score.comparison import Comparison, PairedTest, ShownQuery
from llama2vec.score.significance import SAME
from llama2vec.score.tasks import TaskScore
from llama2vec.tables import Cell, Rows, Table
from llama2vec.terminal import counted

MINUS, NONE = "−", "–"
ALPHA = 0.05  # A corrected p-value below this counts as a difference

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


def sentence_start(name: str) -> str:
    """Return a name with a capital, unless it has capitals of its own.

    >>> sentence_start("gradient norm"), sentence_start("nDCG@10, held out")
    ('Gradient norm', 'nDCG@10, held out')
    """
    return f"{name[0].upper()}{name[1:]}" if name.partition(" ")[0].islower() else name


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


_HIGHER = "Higher is better."
_SCORES = f"{_HIGHER} [95 % bootstrap interval]"
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")


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
    """Return a row per system of one task and a column per metric."""
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


def system_tables(reports: Sequence[Report]) -> list[Table]:
    """Return a terminal table per task, with a row per system."""
    return [Table(rows, task, _SCORES) for task, rows in _rows_by_task(reports).items()]


def system_markdown(reports: Sequence[Report]) -> str:
    """Return a Markdown section per task, with a row per system."""
    tables = _rows_by_task(reports).items()
    return "\n\n".join(f"## {escape_markdown(task)}\n\n{markdown_table(rows)}" for task, rows in tables)


def _rows_by_task(reports: Sequence[Report]) -> dict[str, Rows]:
    tasks = dict.fromkeys(report.task for report in reports)
    return {task: score_rows([one for one in reports if one.task == task]) for task in tasks}


def task_table(scores: Sequence[TaskScore]) -> Table:
    """Return one system's scores: a row per task, with the interval of its headline metric, and a row per average."""
    metrics = list(dict.fromkeys(metric for one in scores for metric in one.report.metrics))
    rows: list[list[str | Cell]] = [["Task", *metrics, "time"]]
    for one in scores:
        cells = [score_cell(one.report, metric) for metric in metrics]
        headline = next(iter(one.report.metrics))
        shown = [cell if metric == headline else cell.text for metric, cell in zip(metrics, cells, strict=True)]
        rows.append([one.task.name, *shown, "kept" if one.result.kept else f"{one.result.seconds:,.0f} s"])
    for (family, averaged), (count, mean) in family_averages(scores).items():
        means = [score(mean) if metric == averaged else "" for metric in metrics]
        rows.append([f"average of {count} {family} tasks", *means, ""])
    return Table(rows, scores[0].report.system if scores else "", _SCORES)


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


_RUN_COLUMNS = {"unanswered_queries": "queries it lacks", "depth": "depth", "seeds": "seeds"}


def terminal_comparison(comparison: Comparison) -> list[str | Table]:
    """Return systems, tests, verdicts and the queries that changed most, for the terminal."""
    pairs, queries = comparison.pairs, len(next(iter(comparison.per_query.values())))
    title = " · ".join(
        part
        for part in (comparison.task, comparison.metric, counted(queries, "judged query", "judged queries"))
        if part
    )
    parts: list[str | Table] = [
        Table(_compared_systems(comparison), title, _HIGHER),
        "",
        Table([_PAIR_HEAD, *map(_pair_row, pairs)], note=_method(comparison)),
        "",
        *(_sentence(pair, corrected=len(pairs) > 1) for pair in pairs),
    ]
    for pair in pairs:
        if pair.changed:
            parts += ["", f"Queries that changed most, {pair_name(pair)}"]
        for query_id, first, second in pair.changed:
            query = comparison.shown.get(query_id, ShownQuery("", {}))
            change = f"{difference(second - first)}  {query_id}  ({score(first)} → {score(second)})"
            parts.append(f"{change}  {' '.join(query.text.split())}".rstrip())
            parts += [f"{' ' * 8}{' '.join(line.split())}" for line in _answers(query, pair)]
    return parts


def _compared_systems(comparison: Comparison) -> list[list[str]]:
    """Return a head and a row per system: mean, the tasks' means if pooled, and what the run lacks."""
    settings, tasks = comparison.settings, comparison.settings.get("tasks", {})
    known = {key: name for key, name in _RUN_COLUMNS.items() if key in settings}
    deviations = settings.get("deviations", {})
    rows = [["System", comparison.metric, *tasks, *known.values(), *(["std"] if deviations else [])]]
    for system, mean in comparison.systems.items():
        means = [score(value) for value in (mean, *(by_system[system] for by_system in tasks.values()))]
        std = [NONE if (one := deviations[system]) is None else score(one)] if deviations else []
        rows.append([system, *means, *(f"{settings[key][system]:,}" for key in known), *std])
    return rows


_PAIR_HEAD = ["Pair", "difference", "d_z", "p, t-test", "p, randomized", "win/tie/loss"]


def _pair_row(pair: PairedTest) -> list[str | Cell]:
    effect = NONE if pair.effect_size is None else score(pair.effect_size)
    return [
        pair_name(pair),
        Cell(difference(pair.difference), interval(pair.interval, signed=True)),
        Cell(effect, interval(pair.effect_interval, signed=True)),
        p_value_text(pair.t_p_corrected),
        p_value_text(pair.randomization_p_corrected),
        f"{pair.wins}/{pair.ties}/{pair.losses}",
    ]


def _method(comparison: Comparison) -> str:
    count, flips = len(comparison.pairs), next((pair.flips for pair in comparison.pairs if pair.flips), None)
    holm = f", after Holm over the {count} pairs of this metric" if count > 1 else ""
    drawn = f"{flips:,} random sign patterns" if flips else "every sign pattern"
    tie = f"{comparison.settings.get('tie_tolerance', SAME):g}"
    method = f"p: two-sided, paired{holm}; randomized: {drawn}. Tie: at most {tie} apart."
    return f"[95 % bootstrap interval]. {method}"


def _sentence(pair: PairedTest, *, corrected: bool) -> str:
    """Return what the randomization test says, and what difference so many queries could have shown."""
    p_value = f"p = {p_value_text(pair.randomization_p_corrected)}".replace("= <", "< ")
    said = f"{pair_name(pair)}: {verdict(pair)} ({p_value}{' after Holm' if corrected else ''})"
    if pair.detectable_difference is None:
        return f"{said}."
    queries = f"{counted(pair.wins + pair.ties + pair.losses, 'query', 'queries')} of this spread"
    return f"{said}; {queries} show a true difference of {score(pair.detectable_difference)} with 80 % power."


def _answers(query: ShownQuery, pair: PairedTest) -> Iterator[str]:
    """Yield a line per passage that each of the two systems returned."""
    for system in (pair.first, pair.second):
        if system in query.answers and not query.answers[system]:
            yield f"{system}: returned nothing"
        for passage in query.answers.get(system, ()):
            text = " — ".join(part for part in (passage.title, passage.snippet) if part)
            yield f"{system} {passage.rank}. {passage.id} [{judgment(passage.gain)}] {text}".rstrip()

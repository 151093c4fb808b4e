"""What a report says, whatever it is written as: scores, tests between systems, trainings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.manifest import versions
from llama2vec.records import Report
from llama2vec.score.comparison import (
    Comparison,
    ComparisonOptions,
    PairedTest,
    compare_reports,
    comparison_to_json,
    pooled_comparison,
)
from llama2vec.score.report.sources import (
    ComparedRuns,
    CurveFamily,
    Evaluation,
    PipelineRun,
    SourceFile,
    Sources,
    Training,
)
from llama2vec.score.significance import SAME, bootstrap_interval
from llama2vec.score.tables import reports_to_json

_FORMAT, _FORMAT_VERSION = "llama2vec-report", 1
_OPTIONS = ComparisonOptions(changed=10)


@dataclass(frozen=True)
class Task:
    """Every system on one task.

    Attributes:
        name: Of the task; "" where the sources do not say.
        reports: One a system, in the order given.
        comparisons: Tests between the systems.
        notes: What a reader must know before comparing rows.
    """

    name: str
    reports: Sequence[Report]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name or "unnamed task"

    @property
    def measures(self) -> list[str]:
        """Every measure of a system; the first stands for the task."""
        return list(dict.fromkeys(measure for report in self.reports for measure in report.metrics))

    @property
    def members(self) -> Sequence[str]:
        """The tasks that this one averages, each counting alike; empty for an ordinary task."""
        return next((members for report in self.reports if (members := _members(report))), [])

    @property
    def is_mean(self) -> bool:
        """Whether this is a mean over tasks that a comparison made."""
        return any("tasks" in comparison.settings for comparison in self.comparisons)

    @property
    def pairs(self) -> list[tuple[Comparison, PairedTest]]:
        """Every test with the comparison that it belongs to."""
        return [(comparison, pair) for comparison in self.comparisons for pair in comparison.pairs]


@dataclass(frozen=True)
class Content:
    """A report.

    Attributes:
        title: Of the page.
        command: What made it.
        tasks: In the order given.
        trainings: In the order given.
        runs: In the order given.
        files: What was read.
        versions: Of the programs that made the page.
        curves: Scores over something that was varied.
    """

    title: str
    command: str
    tasks: Sequence[Task]
    trainings: Sequence[Training]
    runs: Sequence[PipelineRun]
    files: Sequence[SourceFile]
    versions: Mapping[str, str]
    curves: Sequence[CurveFamily] = ()

    @property
    def headline(self) -> list[Task]:
        """The tasks without those that stand in the average of another."""
        averaged = {name for task in self.tasks for name in task.members}
        return [task for task in self.tasks if task.name not in averaged]

    @property
    def systems(self) -> list[str]:
        """Every system of a task, each once."""
        return list(dict.fromkeys(report.system for task in self.tasks for report in task.reports))


def build_content(sources: Sources, *, title: str = "", command: str = "", baseline: str = "") -> Content:
    """Put together what a report says.

    Where a task has comparisons, those are shown; else each system whose values per query are known is tested
    against the baseline by the task's first measure.

    Args:
        sources: What was read.
        title: "" = one made of the tasks' names.
        command: What made the page.
        baseline: System that the others are tested against; "" = the first of each task.

    Raises:
        EvaluationError: Two results of one system on one task, scores of one run that disagree, or results on
            different corpora under the name of one task.
        ConfigError: No task has the baseline.
        MissingDependencyError: scipy is not installed and there is something to test.
    """
    evaluations: dict[str, list[Evaluation]] = {}
    for evaluation in sources.evaluations:
        evaluations.setdefault(evaluation.report.task, []).append(evaluation)
    compared: dict[str, list[ComparedRuns]] = {}
    for one in sources.comparisons:
        compared.setdefault(one.comparison.task, []).append(one)
    names = list(dict.fromkeys([*evaluations, *compared]))
    known = {report.system for task in evaluations.values() for report in (one.report for one in task)}
    known |= {system for task in compared.values() for one in task for system in one.comparison.systems}
    if baseline and baseline not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"--baseline {baseline}: no such system in these results; there are: {there}")
    tasks = [_task(name, evaluations.get(name, []), compared.get(name, []), baseline) for name in names]
    return Content(
        title or _title(tasks, sources.trainings), command, tasks, sources.trainings, sources.runs, sources.files,
        versions(), sources.curves,
    )  # fmt: skip


def averages(tasks: Sequence[Task]) -> dict[str, float]:
    """Return the mean over the tasks of each system that was scored on all of them by one measure.

    Empty where the tasks have different first measures, where one of them is such a mean already, or where there is one
    task only.
    """
    measures = {task.measures[0] for task in tasks}
    if len(tasks) < 2 or len(measures) > 1 or any(task.is_mean for task in tasks):
        return {}
    measure = measures.pop()
    scores: dict[str, list[float]] = {}
    for task in tasks:
        for report in task.reports:
            if measure in report.metrics:
                scores.setdefault(report.system, []).append(report.metrics[measure])
    return {system: math.fsum(found) / len(found) for system, found in scores.items() if len(found) == len(tasks)}


def best_values(reports: Iterable[Report], measures: Iterable[str]) -> dict[str, float]:
    """Return each measure's highest value; empty where there is one system only, and so nothing to be best of."""
    reports = list(reports)
    if len(reports) < 2:
        return {}
    found = {name: [report.metrics[name] for report in reports if name in report.metrics] for name in measures}
    return {name: max(values) for name, values in found.items() if values}


def content_to_json(content: Content) -> dict[str, Any]:
    """Return the report as plain data: scores, values per query, tests, logs and settings."""
    return {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "title": content.title,
        "command": content.command,
        "average": averages(content.headline),
        "tasks": [_task_to_json(task) for task in content.tasks],
        "trainings": [dataclasses.asdict(training) for training in content.trainings],
        "runs": [dataclasses.asdict(run) for run in content.runs],
        "curves": [dataclasses.asdict(family) for family in content.curves],
        "files": [dataclasses.asdict(file) for file in content.files],
        "versions": dict(content.versions),
    }


# ------------------------------------------------------------------------------------------------------- one task


def _task(name: str, evaluations: Sequence[Evaluation], compared: Sequence[ComparedRuns], baseline: str) -> Task:
    label = name or "unnamed task"
    found: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        system = evaluation.report.system
        if system in found:
            raise EvaluationError(
                f"{label}: {found[system].where} and {evaluation.where} both hold results of {system!r}; "
                "leave one out, or give one another --name"
            )
        found[system] = evaluation
    _check_corpora(label, [*found.values()], compared)
    _check_pairs(label, compared)
    for one in compared:
        _add_compared(label, found, one)
    reports = [evaluation.report for evaluation in found.values()]
    comparisons = [one.comparison for one in compared] or _against_baseline(name, reports, baseline)
    return Task(name, reports, comparisons, _notes(reports))


def _check_corpora(task: str, evaluations: Sequence[Evaluation], compared: Sequence[ComparedRuns]) -> None:
    settings = [(one.where, one.report.settings) for one in evaluations]
    settings += [(one.where, one.comparison.settings) for one in compared]
    for name, what in (("corpus_fingerprint", "corpora"), ("judgments_fingerprint", "queries or judgments")):
        known = [(where, facts[name]) for where, facts in settings if facts.get(name)]
        other = next((where for where, fingerprint in known if fingerprint != known[0][1]), None)
        if other is not None:
            raise EvaluationError(
                f"{task}: {known[0][0]} and {other} were made on different {what}, or some that changed; "
                "evaluate both on the same"
            )


def _check_pairs(task: str, compared: Sequence[ComparedRuns]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for one in compared:
        for pair in one.comparison.pairs:
            key = (one.comparison.measure, pair.first, pair.second)
            if key in seen:
                raise EvaluationError(
                    f"{task}: {seen[key]} and {one.where} both compare {pair.first!r} with {pair.second!r} by "
                    f"{one.comparison.measure}; leave one out"
                )
            seen[key] = one.where


def _add_compared(task: str, found: dict[str, Evaluation], one: ComparedRuns) -> None:
    """Add what a comparison says about its systems; make sure that it is about the same runs as the reports."""
    comparison, measure = one.comparison, one.comparison.measure
    # The mean of tasks' means is not the mean of the queries.
    pooled = "tasks" in comparison.settings
    for system, mean in comparison.systems.items():
        known = found.get(system, Evaluation(Report(comparison.task, system, {}), one.where))
        report = known.report
        if abs(report.metrics.get(measure, mean) - mean) > SAME:
            raise EvaluationError(
                f"{task}: {system!r} has {measure} {report.metrics[measure]:.4f} in {known.where} and {mean:.4f} in "
                f"{one.where}; these are not the same run: compare again, or leave one out"
            )
        if measure not in report.metrics:
            values = {} if pooled else {measure: comparison.per_query[system]}
            intervals = {name: bootstrap_interval([*by_query.values()]) for name, by_query in values.items()}
            report = dataclasses.replace(
                report,
                metrics={**report.metrics, measure: mean},
                intervals={**report.intervals, **intervals},
                per_query={**report.per_query, **values},
            )
        found[system] = Evaluation(report, known.where)


def _against_baseline(task: str, reports: Sequence[Report], baseline: str) -> list[Comparison]:
    """Test every system against the baseline by the task's first measure, where both have the same queries."""
    measure = next(iter(reports[0].metrics))
    ordered = sorted(reports, key=lambda report: report.system != baseline)
    known = [report for report in ordered if measure in report.per_query]
    alike = [report for report in known if report.per_query[measure].keys() == known[0].per_query[measure].keys()]
    if len(alike) < 2 or len(alike[0].per_query[measure]) < 2:
        return []
    members = _members(alike[0])
    if not members:
        return [compare_reports(alike, measure=measure, options=_OPTIONS)]
    parts = [[_member_report(report, measure, task, member) for report in alike] for member in members]
    if any(len(report.per_query[measure]) < 2 for part in parts for report in part):
        return []
    # Each member counts alike, as in the average itself; only the test over all of them is shown.
    untested = dataclasses.replace(_OPTIONS, flips=1, resamples=1)
    compared = [compare_reports(part, measure=measure, options=untested) for part in parts]
    return [dataclasses.replace(pooled_comparison(compared, options=_OPTIONS), task=task)]


def _members(report: Report) -> list[str]:
    found = report.settings.get("members")
    return [str(name) for name in found] if isinstance(found, list) else []


def _member_report(report: Report, measure: str, task: str, member: str) -> Report:
    """Return the part of an average that one member gave; its queries have its name in front."""
    prefix = f"{member.removeprefix(f'{task}/')}/"
    values = report.per_query[measure]
    kept = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return Report(prefix.removesuffix("/"), report.system, {}, {}, {measure: kept})


def _notes(reports: Sequence[Report]) -> list[str]:
    notes = []
    for measure in dict.fromkeys(measure for report in reports for measure in report.per_query):
        asked = {one.system: one.per_query[measure].keys() for one in reports if measure in one.per_query}
        common = set.intersection(*map(set, asked.values()))
        if any(len(ids) != len(common) for ids in asked.values()):
            counts = ", ".join(f"{system}: {len(ids):,}" for system, ids in asked.items())
            notes.append(
                f"{measure} was computed on different queries ({counts}; in common: {len(common):,}), so these means "
                "cannot be compared."
            )
    for report in reports:
        for measure, values in report.per_query.items():
            mean = math.fsum(values.values()) / len(values)
            if not _members(report) and abs(report.metrics.get(measure, mean) - mean) > SAME:
                notes.append(
                    f"{measure} of {report.system} is {report.metrics[measure]:.4f}, but the mean of its values per "
                    f"query is {mean:.4f}: the values may be of another evaluation."
                )
    return notes


def _task_to_json(task: Task) -> dict[str, Any]:
    return {
        **reports_to_json(task.reports),
        "per_query": {
            report.system: {measure: dict(values) for measure, values in report.per_query.items()}
            for report in task.reports
        },
        "comparisons": [comparison_to_json(comparison) for comparison in task.comparisons],
        "notes": list(task.notes),
    }


def _title(tasks: Sequence[Task], trainings: Sequence[Training]) -> str:
    if not tasks:
        return "Training" if len(trainings) == 1 else "Trainings" if trainings else "Run"
    return f"Evaluation: {tasks[0].label}" if len(tasks) == 1 else f"Evaluation on {len(tasks)} tasks"

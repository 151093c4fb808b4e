"""What a report says, in any format: scores, tests between systems, trainings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.manifest import versions
from llama2vec.records import Report
from llama2vec.score.comparison import (
    Comparison,
    ComparisonOptions,
    PairedTest,
    compare_reports,
)
from llama2vec.score.report.sources import (
    ComparedRuns,
    CurveFamily,
    Evaluation,
    SourceFile,
    Sources,
    Training,
)
from llama2vec.score.significance import SAME, bootstrap_interval

_OPTIONS = ComparisonOptions(changed=10)


@dataclass(frozen=True)
class TaskResults:
    """Every system on one task, with what a reader must know before comparing them (``notes``)."""

    name: str
    reports: Sequence[Report]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name or "unnamed task"

    @property
    def metrics(self) -> list[str]:
        """Every metric of a system; the first stands for the task."""
        return list(dict.fromkeys(metric for report in self.reports for metric in report.metrics))

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
    """A report: tasks, trainings and curves in the order given, and how the page was made."""

    title: str
    command: str
    tasks: Sequence[TaskResults]
    trainings: Sequence[Training]
    files: Sequence[SourceFile]
    versions: Mapping[str, str]
    curves: Sequence[CurveFamily] = ()

    @property
    def summary(self) -> str:
        """One line that says what the report holds."""
        parts = [f"{_count(len(self.systems), 'system')} on {_count(len(self.tasks), 'task')}"] if self.tasks else []
        return ", ".join([*parts, *([_count(len(self.trainings), "training")] if self.trainings else [])])

    @property
    def headline(self) -> list[TaskResults]:
        """The tasks without those that stand in the average of another."""
        averaged = {name for task in self.tasks for name in task.members}
        return [task for task in self.tasks if task.name not in averaged]

    @property
    def systems(self) -> list[str]:
        """Every system of a task, each once."""
        return list(dict.fromkeys(report.system for task in self.tasks for report in task.reports))


def build_content(sources: Sources, *, title: str = "", command: str = "", baseline: str = "") -> Content:
    """Put together what a report says.

    Comparisons of a task are shown as they are; without any, every system with values per query is tested against the
    baseline by the task's first metric.

    Raises:
        EvaluationError: Two results of one system on one task, scores of one run that disagree, or results on
            different corpora under one task's name.
        ConfigError: No task has the baseline.
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
        title or _title(tasks, sources.trainings), command, tasks, sources.trainings, sources.files,
        versions(), sources.curves,
    )  # fmt: skip


def averages(tasks: Sequence[TaskResults]) -> dict[str, float]:
    """Return the mean over the tasks of each system that was scored on all of them by one metric.

    Empty for a single task, for tasks with different first metrics, and if one of them is such a mean already.
    """
    metrics = {task.metrics[0] for task in tasks}
    if len(tasks) < 2 or len(metrics) > 1 or any(task.is_mean for task in tasks):
        return {}
    metric = metrics.pop()
    scores: dict[str, list[float]] = {}
    for task in tasks:
        for report in task.reports:
            if metric in report.metrics:
                scores.setdefault(report.system, []).append(report.metrics[metric])
    return {system: math.fsum(found) / len(found) for system, found in scores.items() if len(found) == len(tasks)}


def _task(name: str, evaluations: Sequence[Evaluation], compared: Sequence[ComparedRuns], baseline: str) -> TaskResults:
    label = name or "unnamed task"
    found: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        system = evaluation.report.system
        if system in found:
            raise EvaluationError(
                f"{label}: {found[system].where} and {evaluation.where} both hold results of {system!r}; "
                "report only one, or evaluate one with another --name"
            )
        found[system] = evaluation
    _check_corpora(label, [*found.values()], compared)
    for one in compared:
        _add_compared(label, found, one)
    reports = [evaluation.report for evaluation in found.values()]
    comparisons = [one.comparison for one in compared] or _against_baseline(name, reports, baseline)
    return TaskResults(name, reports, comparisons, _notes(reports))


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


def _add_compared(task: str, found: dict[str, Evaluation], one: ComparedRuns) -> None:
    """Add what a comparison says about its systems; make sure that it is about the same runs as the reports."""
    comparison, metric = one.comparison, one.comparison.metric
    # The mean of tasks' means is not the mean of the queries.
    pooled = "tasks" in comparison.settings
    for system, mean in comparison.systems.items():
        known = found.get(system, Evaluation(Report(comparison.task, system, {}), one.where))
        report = known.report
        if abs(report.metrics.get(metric, mean) - mean) > SAME:
            raise EvaluationError(
                f"{task}: {system!r} has {metric} {report.metrics[metric]:.4f} in {known.where} and {mean:.4f} in "
                f"{one.where}; these are not the same run: compare again, or report only one"
            )
        if metric not in report.metrics:
            values = {} if pooled else {metric: comparison.per_query[system]}
            intervals = {name: bootstrap_interval([*by_query.values()]) for name, by_query in values.items()}
            report = dataclasses.replace(
                report,
                metrics={**report.metrics, metric: mean},
                intervals={**report.intervals, **intervals},
                per_query={**report.per_query, **values},
            )
        found[system] = Evaluation(report, known.where)


def _against_baseline(task: str, reports: Sequence[Report], baseline: str) -> list[Comparison]:
    """Test every system against the baseline by the task's first metric, where both have the same queries."""
    metric = next(iter(reports[0].metrics))
    ordered = sorted(reports, key=lambda report: report.system != baseline)
    known = [report for report in ordered if metric in report.per_query]
    alike = [report for report in known if report.per_query[metric].keys() == known[0].per_query[metric].keys()]
    if len(alike) < 2 or len(alike[0].per_query[metric]) < 2:
        return []
    # The queries of an average belong to several tasks, which are tested one by one.
    return [] if _members(alike[0]) else [compare_reports(alike, metric=metric, options=_OPTIONS)]


def _members(report: Report) -> list[str]:
    found = report.settings.get("members")
    return [str(name) for name in found] if isinstance(found, list) else []


def _notes(reports: Sequence[Report]) -> list[str]:
    notes = []
    for metric in dict.fromkeys(metric for report in reports for metric in report.per_query):
        asked = {one.system: one.per_query[metric].keys() for one in reports if metric in one.per_query}
        common = set.intersection(*map(set, asked.values()))
        if any(len(ids) != len(common) for ids in asked.values()):
            counts = ", ".join(f"{system}: {len(ids):,}" for system, ids in asked.items())
            notes.append(
                f"{metric} was computed on different queries ({counts}; in common: {len(common):,}), so these means "
                "cannot be compared."
            )
    return notes


def _title(tasks: Sequence[TaskResults], trainings: Sequence[Training]) -> str:
    if not tasks:
        return "Training" if len(trainings) == 1 else "Trainings"
    return f"Evaluation: {tasks[0].label}" if len(tasks) == 1 else f"Evaluation on {len(tasks)} tasks"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

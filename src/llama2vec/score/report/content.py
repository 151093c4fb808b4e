"""What a report says: results and logs side by side, and tests between systems."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.manifest import versions
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison, ComparisonOptions, PairedTest, compare_reports
from llama2vec.score.report.sources import ComparedRuns, Evaluation, Sources
from llama2vec.score.report.text import Training
from llama2vec.score.significance import SAME, bootstrap_interval
from llama2vec.terminal import counted

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
    def pairs(self) -> list[tuple[Comparison, PairedTest]]:
        """Every test with the comparison that it belongs to."""
        return [(comparison, pair) for comparison in self.comparisons for pair in comparison.pairs]


@dataclass(frozen=True)
class Content:
    """A report: what was read, in the order given, and how the page is made."""

    title: str
    command: str
    tasks: Sequence[TaskResults]
    sources: Sources
    versions: Mapping[str, str]

    @property
    def summary(self) -> str:
        """One line that says what the report holds."""
        parts = [f"{counted(len(self.systems), 'system')} on {counted(len(self.tasks), 'task')}"] if self.tasks else []
        return ", ".join(
            [*parts, *([counted(len(self.sources.trainings), "training")] if self.sources.trainings else [])]
        )

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
    known = {evaluation.report.system for evaluation in sources.evaluations}
    known |= {system for one in sources.comparisons for system in one.comparison.systems}
    if baseline and baseline not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"--baseline {baseline}: no such system in these results; there are: {there}")
    tasks = [_task(name, evaluations.get(name, []), compared.get(name, []), baseline) for name in names]
    return Content(title or _title(tasks, sources.trainings), command, tasks, sources, versions())


def averages(tasks: Sequence[TaskResults]) -> dict[str, float]:
    """Return the mean over the tasks of each system that was scored on all of them by one metric.

    Empty for a single task, for tasks with different first metrics, and if one of them is such a mean already.
    """
    metrics = {task.metrics[0] for task in tasks}
    is_mean = any("tasks" in comparison.settings for task in tasks for comparison in task.comparisons)
    if len(tasks) < 2 or len(metrics) > 1 or is_mean:
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
    check_corpora(label, [*found.values()], compared)
    for one in compared:
        _add_compared(label, found, one)
    reports = [evaluation.report for evaluation in found.values()]
    comparisons, notes = [one.comparison for one in compared], _notes(reports)
    if not comparisons:
        comparisons, untested = _against_baseline(label, reports, baseline)
        notes += untested
    return TaskResults(name, reports, comparisons, notes)


def check_corpora(task: str, evaluations: Sequence[Evaluation], compared: Sequence[ComparedRuns] = ()) -> None:
    """Raise an EvaluationError where results of one task were made on different corpora or judgments."""
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


def _against_baseline(task: str, reports: Sequence[Report], baseline: str) -> tuple[list[Comparison], list[str]]:
    """Test every system against the baseline by the task's first metric; say which cannot be tested.

    Without a name, the baseline is the first system with values per query.
    """
    metric = next(iter(reports[0].metrics))
    known = [report for report in reports if metric in report.per_query]
    # Sentence pairs have no such values; the queries of an average belong to tasks that are tested one by one.
    if not known or any(map(_members, reports)):
        return [], []
    first = next((report for report in known if report.system == baseline), None if baseline else known[0])
    if first is None:
        lacks = f"values per query of {metric}" if baseline in {report.system for report in reports} else "results"
        return [], [f"No system is tested on {task}, because the baseline {baseline} has no {lacks} there."]
    asked = first.per_query[metric].keys()
    alike = [report for report in known if report is not first and report.per_query[metric].keys() == asked]
    others = [report.system for report in reports if report is not first and report not in alike]
    notes = [
        f"Not tested against {first.system} on {task}: {', '.join(others)}. Each needs {metric} of the same queries."
    ]
    tested = [compare_reports([first, *alike], metric=metric, options=_OPTIONS)] if alike and len(asked) > 1 else []
    return tested, notes if others else []


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

"""What a report says: results and logs that the other verbs wrote, read and checked, and tests between systems."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from llama2vec.errors import ConfigError, DataError, EvaluationError
from llama2vec.files import file_sha256, read_text
from llama2vec.manifest import MANIFEST_FILE, RUN_FORMAT, RUN_RECORD, versions
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison, ComparisonOptions, PairedTest, compare_reports
from llama2vec.score.report.plots import CurveFamily
from llama2vec.score.report.text import Training
from llama2vec.score.results import (
    NUMBERS,
    QUERY_VALUES,
    comparison_from_json,
    is_result,
    parse_json,
    query_values_file,
    read_json,
    result_from_json,
    validated,
    with_query_values,
)
from llama2vec.score.significance import SAME, bootstrap_interval
from llama2vec.terminal import counted

_OPTIONS = ComparisonOptions(changed=10)
LOG_FILE = "log.jsonl"
_KINDS = "what evaluate --output or compare --output wrote, or a folder of adapt, finetune or run"

_STAGES = TypeAdapter(dict[str, dict[str, Any]])


class SourceFile(NamedTuple):
    """A file that was read: as it was named, what kind it is, and its content's SHA-256."""

    path: str
    kind: str
    sha256: str


class Evaluation(NamedTuple):
    """A report and its file."""

    report: Report
    where: str


class ComparedRuns(NamedTuple):
    """A comparison and its file."""

    comparison: Comparison
    where: str


@dataclass(frozen=True)
class Sources:
    """Everything that was read, in the order given."""

    files: list[SourceFile] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    comparisons: list[ComparedRuns] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    curves: list[CurveFamily] = field(default_factory=list)


def read_sources(paths: Iterable[str | Path]) -> Sources:
    """Read what a report shows: folders and files that other verbs wrote."""
    sources, seen = Sources(), set[Path]()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise ConfigError(f"{path} is given twice; name it once")
        seen.add(path.resolve())
        if not path.exists():
            raise DataError(f"{path} does not exist; give {_KINDS}")
        if not (_read_folder(path, sources) if path.is_dir() else _read_file(path, sources)):
            raise DataError(f"{path} holds no result to report; give {_KINDS}")
    if not seen:
        raise ConfigError(f"nothing to report; give {_KINDS}")
    return sources


def _read_folder(folder: Path, sources: Sources) -> bool:
    """Read a run, a training or every result of a folder; tell whether there is one."""
    if (folder / RUN_RECORD).is_file():
        return _read_run(folder, sources)
    if (folder / LOG_FILE).is_file():
        sources.trainings.append(_read_training(folder, sources))
        return True
    found = [_read_file(file, sources) for file in sorted(folder.glob("*.json"))]
    for values in sorted(folder.glob(f"*.{QUERY_VALUES}")):
        result = folder / f"{values.name.removesuffix(QUERY_VALUES)}json"
        if not result.is_file() or not is_result(read_json(result)):
            raise DataError(f"{result} is missing or damaged, and {values.name} belongs to it; evaluate again")
    return any(found)


def _read_run(folder: Path, sources: Sources) -> bool:
    file = folder / RUN_RECORD
    content = read_json(file)
    if content.get("format") != RUN_FORMAT:
        return False
    stages = validated(_STAGES, content.get("stages"), str(file))
    sources.files.append(_source_file(file, "run"))
    for stage in stages:
        made = folder / str(stages[stage].get("folder", ""))
        if (made / LOG_FILE).is_file():
            sources.trainings.append(_read_training(made, sources))
        elif made != folder and made.is_dir():
            # The evaluation of a run has a folder for each system.
            for system in sorted(path for path in made.iterdir() if path.is_dir() and not path.name.startswith(".")):
                _read_folder(system, sources)
    return True


def _read_training(folder: Path, sources: Sources) -> Training:
    log, manifest = folder / LOG_FILE, folder / MANIFEST_FILE
    lines = _read_log(log)
    sources.files.append(_source_file(log, "training"))
    facts: Mapping[str, Any] = {}
    if manifest.is_file():
        facts = read_json(manifest)
        sources.files.append(_source_file(manifest, "training"))
    begun = next((stage for stage in ("finetune", "adapt") if (folder / f"{stage}.json").is_file()), "")
    return Training(str(folder), str(facts.get("stage", begun)), lines, facts)


def _read_log(path: Path) -> list[dict[str, float]]:
    """Read a log, except a last line that a kill cut short."""
    try:
        whole = read_text(path).split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path} cannot be read as text; is it a log of adapt or finetune?") from None
    lines = []
    for number, text in enumerate(whole, start=1):
        where = f"{path}:{number}"
        line = parse_json(text, where)
        if "step" not in line:
            raise DataError(f"{where} has no step; is it a log of adapt or finetune?")
        lines.append(validated(NUMBERS, line, where))
    if not lines:
        raise DataError(f"{path}: no step is logged yet; report again later")
    return lines


def _read_file(path: Path, sources: Sources) -> bool:
    """Read a JSON file into the sources; tell whether it is a result."""
    content = read_json(path)
    if is_result(content):
        result = with_query_values(path, result_from_json(content, path))
        sources.files.append(_source_file(path, "evaluation"))
        if result.report.per_query:
            sources.files.append(_source_file(query_values_file(path), "values per query"))
        settings = {**result.report.settings, "seconds": result.seconds}
        sources.evaluations.append(Evaluation(dataclasses.replace(result.report, settings=settings), str(path)))
        return True
    if isinstance(content.get("comparisons"), list) or "pairs" in content:
        for one in content.get("comparisons", [content]):
            comparison = comparison_from_json(one, str(path))
            if comparison.systems.keys() - comparison.per_query.keys():
                raise DataError(f"{path} lacks the values per query of a system; compare again")
            sources.comparisons.append(ComparedRuns(comparison, str(path)))
        sources.files.append(_source_file(path, "comparison"))
        return True
    return False


def _source_file(path: Path, kind: str) -> SourceFile:
    return SourceFile(str(path), kind, file_sha256(path))


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
    _check_corpora(label, [*found.values()], compared)
    for one in compared:
        _add_compared(label, found, one)
    reports = [evaluation.report for evaluation in found.values()]
    comparisons, notes = [one.comparison for one in compared], _notes(reports)
    if not comparisons:
        comparisons, untested = _against_baseline(label, reports, baseline)
        notes += untested
    return TaskResults(name, reports, comparisons, notes)


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

"""What a report is made of: folders and files that the other verbs wrote, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama2vec.errors import ConfigError, DataError, EvaluationError
from llama2vec.files import file_sha256
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison, comparison_from_json

LOG_FILE, MANIFEST_FILE, RUN_FILE, PER_QUERY = "log.jsonl", "manifest.json", "run.json", "per-query.tsv"
_RUN_FORMAT = "llama2vec-run"
_KINDS = "what evaluate --output, evaluate --json or compare --json wrote, or a folder of adapt, finetune or run"

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that was read.

    Attributes:
        path: As it was named, or below the folder that was named.
        kind: ``evaluation``, ``values per query``, ``comparison``, ``training``, ``run`` or ``study``.
        sha256: Of its content.
    """

    path: str
    kind: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report and the file that it was in."""

    report: Report
    where: str


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """A comparison and the file that it was in."""

    comparison: Comparison
    where: str


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training, or one under way.

    Attributes:
        where: The folder.
        stage: ``adapt`` or ``finetune``; "" where the folder does not say.
        log: The lines of ``log.jsonl``, with ``step`` and figures by name; at least one.
        manifest: What ``manifest.json`` says; empty while the training is not finished.
    """

    where: str
    stage: str
    log: Sequence[Mapping[str, float]]
    manifest: Settings

    @property
    def state(self) -> str:
        """``finished``, or not."""
        return "finished" if self.manifest else "not finished"

    @property
    def steps(self) -> int:
        """Steps logged so far."""
        return int(self.log[-1]["step"])


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """What ``run.json`` says.

    Attributes:
        where: The folder.
        stages: Stage name → state, folder, seconds, settings …
        settings: Recipe, versions, machine.
    """

    where: str
    stages: Mapping[str, Settings]
    settings: Settings


@dataclass(frozen=True, slots=True)
class CurveFamily:
    """Scores over something that was varied.

    Attributes:
        title: Above the plot.
        axis: What is measured.
        across: What was varied.
        lines: Name → what was varied → score; two points or more each.
    """

    title: str
    axis: str
    across: str
    lines: Mapping[str, Mapping[float, float]]


@dataclass(frozen=True)
class Sources:
    """Everything that was read, in the order given."""

    files: list[SourceFile] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    comparisons: list[ComparedRuns] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    runs: list[PipelineRun] = field(default_factory=list)
    curves: list[CurveFamily] = field(default_factory=list)


def read_sources(paths: Iterable[str | Path]) -> Sources:
    """Read what a report shall show.

    Args:
        paths: Folders of ``evaluate --output``, ``adapt``, ``finetune`` or ``run``; JSON files of ``evaluate --json``
            (with ``.per-query.tsv`` beside) or ``compare --json``.

    Raises:
        ConfigError: No path, or one given twice.
        DataError: A path that is none of these, damaged content, or a number that is not finite.
    """
    sources, seen = Sources(), set[Path]()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise ConfigError(f"{path}: is given twice; leave one out")
        seen.add(path.resolve())
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give {_KINDS}")
        try:
            known = _read_folder(path, sources) if path.is_dir() else _read_result(path, sources)
        except UnicodeDecodeError:
            raise DataError(f"{path}: holds bytes that are no UTF-8 text; give {_KINDS}") from None
        if not known:
            raise DataError(f"{path}: holds no result to report; give {_KINDS}")
    if not seen:
        raise ConfigError(f"there is nothing to report; give {_KINDS}")
    return sources


# ------------------------------------------------------------------------------------------------- folders


def _read_folder(folder: Path, sources: Sources) -> bool:
    if (folder / RUN_FILE).is_file():
        return _read_run(folder, sources)
    if (folder / LOG_FILE).is_file():
        sources.trainings.append(_read_training(folder, sources))
        return True
    known = [_read_result(file, sources) for file in sorted(folder.glob("*.json"))]
    return any(known)


def _read_run(folder: Path, sources: Sources) -> bool:
    content = _read_json(folder / RUN_FILE)
    if content.get("format") != _RUN_FORMAT:
        return False
    stages = _mapping(content, "stages", folder / RUN_FILE)
    sources.files.append(_source_file(folder / RUN_FILE, "run"))
    settings = {key: value for key, value in content.items() if key not in ("format", "stages")}
    sources.runs.append(PipelineRun(str(folder), stages, settings))
    for stage in stages:
        made = folder / str(_mapping(stages, stage, folder / RUN_FILE).get("folder", ""))
        if (made / LOG_FILE).is_file():
            sources.trainings.append(_read_training(made, sources))
        elif (made / "summary.json").is_file():
            _read_result(made / "summary.json", sources)
    return True


def _read_training(folder: Path, sources: Sources) -> Training:
    log, manifest = folder / LOG_FILE, folder / MANIFEST_FILE
    lines = _read_log(log)
    sources.files.append(_source_file(log, "training"))
    facts: Settings = {}
    if manifest.is_file():
        facts = _read_json(manifest)
        sources.files.append(_source_file(manifest, "training"))
    begun = next((stage for stage in ("finetune", "adapt") if (folder / f"{stage}.json").is_file()), "")
    return Training(str(folder), str(facts.get("stage", begun)), lines, facts)


def _read_log(path: Path) -> list[dict[str, float]]:
    """Read a log; a last line that a kill cut short is left out."""
    texts = path.read_text(encoding="utf-8").split("\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        if number == len(texts):
            # What ends in a newline has "" here; anything else was not finished.
            break
        line = _parse_json(text, f"{path}:{number}")
        step = line.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise DataError(f"{path}:{number}: has no step; is it a log of adapt or finetune?")
        lines.append({"step": step, **_numbers({k: v for k, v in line.items() if k != "step"}, f"{path}:{number}")})
    if not lines:
        raise DataError(f"{path}: no step is logged yet; report again when the training has come further")
    return lines


# ------------------------------------------------------------------------------------------------- JSON results


def _read_result(path: Path, sources: Sources) -> bool:
    """Read a JSON file into the sources; False where it is no result."""
    content = _read_json(path)
    if isinstance(content.get("tasks"), list):
        tasks = content["tasks"]
        if not tasks or not all(isinstance(task, dict) and _is_table(task) for task in tasks):
            return False
        found = [report for task in tasks for report in _table_reports(task, path)]
    elif isinstance(content.get("comparisons"), list) or "pairs" in content:
        sources.comparisons.extend(_comparisons(content, path))
        sources.files.append(_source_file(path, "comparison"))
        return True
    elif _is_table(content):
        found = _table_reports(content, path)
    elif isinstance(content.get("metrics"), dict) and "system" in content:
        found = [_report(content, str(content["system"]), content, path)]
    else:
        return False
    sources.files.append(_source_file(path, "evaluation"))
    found = _with_query_values(found, path, sources)
    sources.evaluations.extend(Evaluation(report, str(path)) for report in found)
    return True


def _comparisons(content: Settings, path: Path) -> list[ComparedRuns]:
    """Return the comparisons of ``compare --json``, or a single one."""
    found = []
    for one in content.get("comparisons", [content]):
        try:
            comparison = comparison_from_json(one)
            _numbers(comparison.systems, str(path))
            for system in comparison.systems:
                _numbers(comparison.per_query[system], f"{path}: {system}")
        except EvaluationError as error:
            raise EvaluationError(f"{path}: {error}") from None
        except (KeyError, AttributeError):
            raise DataError(f"{path}: lacks the values per query of a system; compare again") from None
        found.append(ComparedRuns(comparison, str(path)))
    return found


def _is_table(content: Settings) -> bool:
    return "task" in content and isinstance(content.get("systems"), dict) and "intervals" in content


def _table_reports(content: Settings, path: Path) -> list[Report]:
    """Return the reports that ``evaluate.report.reports_to_json`` wrote: the systems of one task."""
    parts = {name: _mapping(content, name, path) for name in ("systems", "intervals", "settings")}
    # What a script wrote about all systems, such as the machine.
    shared = {key: value for key, value in content.items() if key not in ("task", *parts)}
    found = []
    for system, metrics in parts["systems"].items():
        settings = {**_mapping(parts["settings"], system, path), **shared}
        one = {"metrics": metrics, "intervals": parts["intervals"].get(system, {}), "settings": settings}
        found.append(_report(content, system, one, path))
    return found


def _report(content: Settings, system: str, one: Settings, path: Path) -> Report:
    where = f"{path}: {system}"
    task = content.get("task")
    if not isinstance(task, str) or not task:
        raise DataError(f"{path}: has no name of a task; evaluate again")
    metrics = _numbers(_mapping(one, "metrics", path), where)
    if not metrics:
        raise DataError(f"{where}: has no measure; evaluate again")
    settings = dict(_mapping(one, "settings", path))
    if "seconds" in content:
        settings["seconds"] = content["seconds"]
    intervals = {}
    for measure, bounds in _mapping(one, "intervals", path).items():
        if not isinstance(bounds, Sequence) or len(bounds) != 2:
            raise DataError(f"{where}: the interval of {measure} is {bounds!r}; it should be two numbers")
        low, high = _numbers(dict(zip(("low end", "high end"), bounds, strict=True)), where).values()
        intervals[measure] = (low, high)
    return Report(task, system, metrics, intervals, {}, settings)


def _with_query_values(reports: Sequence[Report], path: Path, sources: Sources) -> list[Report]:
    """Return the reports with their values per query where a TSV with them stands beside the JSON."""
    found = []
    read: dict[Path, dict[str, dict[str, dict[str, float]]]] = {}
    for report in reports:
        names = (f"{path.stem}.{PER_QUERY}", f"{report.task.replace('/', '-')}.{PER_QUERY}", PER_QUERY)
        file = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
        if file is not None and file not in read:
            read[file] = _read_query_values(file)
            sources.files.append(_source_file(file, "values per query"))
        values = read[file].get(report.system, {}) if file else {}
        found.append(Report(report.task, report.system, report.metrics, report.intervals, values, report.settings))
    return found


def _read_query_values(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return system → measure → query id → value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(encoding="utf-8") as stream:
        if next(stream, "").rstrip("\n") != "query\tsystem\tmeasure\tvalue":
            raise DataError(f"{path}:1: the header should be query, system, measure, value with tabs between")
        for number, line in enumerate(stream, start=2):
            row = line.rstrip("\n").split("\t")
            if len(row) != 4:
                raise DataError(f"{path}:{number}: has {len(row)} columns instead of 4; evaluate again")
            query_id, system, measure, text = row
            values = found.setdefault(system, {}).setdefault(measure, {})
            if query_id in values:
                raise DataError(f"{path}:{number}: {query_id!r} has {measure} of {system!r} already; evaluate again")
            try:
                values[query_id] = float(text)
            except ValueError:
                values[query_id] = math.nan
            if not math.isfinite(values[query_id]):
                raise DataError(f"{path}:{number}: {text!r} is no finite number; evaluate again")
    return found


# ------------------------------------------------------------------------------------------------- checks


def _read_json(path: Path) -> dict[str, Any]:
    return _parse_json(path.read_text(encoding="utf-8"), str(path))


def _parse_json(text: str, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise DataError(f"{where}: holds {constant}, which is no score; make the result again")

    try:
        content = json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise DataError(f"{where}: cannot be read as JSON ({error}); make the result again") from None
    return content if isinstance(content, dict) else {}


def _mapping(content: Settings, name: str, path: Path) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise DataError(f"{path}: {name} is {found!r}; it should be names with values")
    return found


def _numbers(content: Settings, where: str) -> dict[str, float]:
    for name, value in content.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise DataError(f"{where}: {name} is {value!r}, which is no finite number; make the result again")
    return dict(content)


def _source_file(path: Path, kind: str) -> SourceFile:
    return SourceFile(str(path), kind, file_sha256(path))

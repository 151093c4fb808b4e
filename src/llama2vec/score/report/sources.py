"""What a report is made of: what the other verbs wrote, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llama2vec.errors import ConfigError, DataError
from llama2vec.files import file_sha256, read_text
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison
from llama2vec.score.results import (
    NUMBERS,
    comparison_from_json,
    is_old_scores,
    is_result,
    parse_json,
    query_values_file,
    read_json,
    read_result,
    validated,
    with_query_values,
)

LOG_FILE, MANIFEST_FILE, RUN_FILE = "log.jsonl", "manifest.json", "run.json"
_RUN_FORMAT = "llama2vec-run"
_KINDS = "what evaluate --output or compare --json wrote, or a folder of adapt, finetune or run"

Settings = Mapping[str, Any]
_STAGES = TypeAdapter(dict[str, dict[str, Any]])


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that was read: as it was named, what kind it is, and its content's SHA-256."""

    path: str
    kind: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report and its file."""

    report: Report
    where: str


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """A comparison and its file."""

    comparison: Comparison
    where: str


@dataclass(frozen=True, slots=True)
class Training:
    """A training, finished or under way."""

    where: str  # The folder
    stage: str  # ``adapt`` or ``finetune``; "" if the folder does not say
    log: Sequence[Mapping[str, float]]  # The lines of ``log.jsonl``, with ``step`` and figures by name; at least one
    manifest: Settings  # What ``manifest.json`` says; empty until the training is finished

    @property
    def state(self) -> str:
        """``finished``, or not."""
        return "finished" if self.manifest else "not finished"

    @property
    def steps(self) -> int:
        """Steps logged so far."""
        return int(self.log[-1]["step"])


@dataclass(frozen=True, slots=True)
class CurveFamily:
    """Scores over something that was varied: line → value of ``across`` → score by ``axis``, two points or more."""

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
    curves: list[CurveFamily] = field(default_factory=list)


def read_sources(paths: Iterable[str | Path]) -> Sources:
    """Read what a report shows.

    Args:
        paths: Folders of ``evaluate --output``, ``adapt``, ``finetune`` or ``run``; files of ``evaluate --output`` or
            ``compare --json``.
    """
    sources, seen = Sources(), set[Path]()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise ConfigError(f"{path} is given twice")
        seen.add(path.resolve())
        if not path.exists():
            raise DataError(f"{path} does not exist; give {_KINDS}")
        if not (_read_folder(path, sources) if path.is_dir() else _read_file(path, sources)):
            raise DataError(f"{path} holds no result to report; give {_KINDS}")
    if not seen:
        raise ConfigError(f"there is nothing to report; give {_KINDS}")
    return sources


def _read_folder(folder: Path, sources: Sources) -> bool:
    if (folder / RUN_FILE).is_file():
        return _read_run(folder, sources)
    if (folder / LOG_FILE).is_file():
        sources.trainings.append(_read_training(folder, sources))
        return True
    return _read_results(folder, sources)


def _read_results(folder: Path, sources: Sources) -> bool:
    """Read every result of a folder; tell whether there is one."""
    found = [_read_file(file, sources) for file in sorted(folder.glob("*.json"))]
    return any(found)


def _read_run(folder: Path, sources: Sources) -> bool:
    file = folder / RUN_FILE
    content = read_json(file)
    if content.get("format") != _RUN_FORMAT:
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
                _read_results(system, sources)
    return True


def _read_training(folder: Path, sources: Sources) -> Training:
    log, manifest = folder / LOG_FILE, folder / MANIFEST_FILE
    lines = _read_log(log)
    sources.files.append(_source_file(log, "training"))
    facts: Settings = {}
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
    if is_result(content) or is_old_scores(content):
        result = with_query_values(path, read_result(path))
        sources.files.append(_source_file(path, "evaluation"))
        if result.report.per_query:
            sources.files.append(_source_file(query_values_file(path), "values per query"))
        report = result.report
        settings = {**report.settings, "seconds": result.seconds}
        report = Report(report.task, report.system, report.metrics, report.intervals, report.per_query, settings)
        sources.evaluations.append(Evaluation(report, str(path)))
        return True
    if isinstance(content.get("comparisons"), list) or "pairs" in content:
        sources.comparisons.extend(_comparisons(content, path))
        sources.files.append(_source_file(path, "comparison"))
        return True
    return False


def _comparisons(content: Settings, path: Path) -> list[ComparedRuns]:
    """Return the comparisons of ``compare --json``, or a single one."""
    found = [comparison_from_json(one, str(path)) for one in content.get("comparisons", [content])]
    for comparison in found:
        if comparison.systems.keys() - comparison.per_query.keys():
            raise DataError(f"{path} lacks the values per query of a system; compare again")
    return [ComparedRuns(comparison, str(path)) for comparison in found]


def _source_file(path: Path, kind: str) -> SourceFile:
    return SourceFile(str(path), kind, file_sha256(path))

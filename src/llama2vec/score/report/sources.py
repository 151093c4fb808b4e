"""What a report is made of: results, comparisons and logs that the other verbs wrote, read and checked."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter

from llama2vec.errors import ConfigError, DataError
from llama2vec.files import file_sha256, read_text
from llama2vec.manifest import MANIFEST_FILE, RUN_FORMAT, RUN_RECORD, SEEDS_FILE
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison
from llama2vec.score.report.plots import CurveFamily
from llama2vec.score.report.text import Training
from llama2vec.score.results import (
    NUMBERS,
    QUERY_VALUES,
    Number,
    comparison_from_json,
    is_result,
    parse_json,
    query_values_file,
    read_json,
    result_from_json,
    validated,
    with_query_values,
)
from llama2vec.terminal import first_few

LOG_FILE = "log.jsonl"

logger = logging.getLogger(__name__)

_KINDS = "what evaluate --output or compare --output wrote, or a folder of adapt, finetune or run"

_STAGES = TypeAdapter(dict[str, dict[str, Any]])
_SEED_FOLDER = re.compile(r"seed-([0-9]+)")


class SeedFigure(BaseModel):
    """A loss or score of each seed, in their order, its mean, and its standard deviation; None for a single seed."""

    values: list[Number]
    mean: Number
    std: Number | None


class SeedTable(BaseModel):
    """What the seeds of one training agree on, as ``--seeds`` wrote it."""

    format: Literal["llama2vec-seeds"]
    verb: str
    seeds: Annotated[list[int], Field(min_length=1)]
    figures: dict[str, SeedFigure]
    where: str = ""  # The folder that holds them


_SEEDS = TypeAdapter(SeedTable)


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
    seeds: list[SeedTable] = field(default_factory=list)


def read_sources(paths: Iterable[str | Path]) -> Sources:
    """Read what a report shows: folders and files that other verbs wrote."""
    sources, seen = Sources(), set[Path]()
    named = [*map(Path, paths)]
    homes = [path.resolve().parent for path in named if _seed(path) is not None]
    for path in named:
        if path.resolve() in seen:
            raise ConfigError(f"{path} is given twice; name it once")
        seen.add(path.resolve())
        if not path.exists():
            raise DataError(f"{path} does not exist; give {_KINDS}")
        if path.is_dir() and homes.count(path.resolve().parent) > 1 and (seed := _seed(path)) is not None:
            found = _read_seed(path, seed, sources)
        else:
            found = _read_folder(path, sources) if path.is_dir() else _read_file(path, sources)
        if not found:
            raise DataError(f"{path} holds no result to report; give {_KINDS}")
    if not seen:
        raise ConfigError(f"nothing to report; give {_KINDS}")
    return sources


def seed_folders(folder: Path, table: SeedTable | None = None) -> dict[int, Path]:
    """Return the folders that ``--seeds`` made in a folder, by seed; empty where there are none.

    Where a table says which seeds belong together, the others are left out with a warning. None = that of the folder.
    """
    every = {seed: path for path in folder.glob("seed-*") if path.is_dir() and (seed := _seed(path)) is not None}
    found = dict(sorted(every.items()))
    table = table or _table(folder)
    if table is None:
        return found
    if others := [str(seed) for seed in found if seed not in table.seeds]:
        logger.warning("%s: left out seed %s, which %s does not name", folder, first_few(others), SEEDS_FILE)
    for seed in table.seeds:
        if seed not in found:
            raise DataError(f"{folder} has no seed-{seed}, which {SEEDS_FILE} names; train it again with --seeds")
    return {seed: found[seed] for seed in sorted(table.seeds)}


def _table(folder: Path) -> SeedTable | None:
    file = folder / SEEDS_FILE
    return validated(_SEEDS, read_json(file), str(file)) if file.is_file() else None


def _seed(folder: Path) -> int | None:
    match = _SEED_FOLDER.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None


def _read_seed(folder: Path, seed: int, sources: Sources) -> bool:
    """Read the folder of one seed among others, so that each system's name ends with the seed."""
    before = len(sources.evaluations)
    found = _read_folder(folder, sources)
    for place, (report, where) in enumerate(sources.evaluations[before:], start=before):
        named = dataclasses.replace(report, system=f"{report.system} (seed {seed})")
        sources.evaluations[place] = Evaluation(named, where)
    return found


def _read_seeds(folder: Path, table: SeedTable, sources: Sources) -> bool:
    """Read what ``--seeds`` wrote: the table of all seeds, and the folder of each."""
    sources.files.append(_source_file(folder / SEEDS_FILE, "seeds"))
    sources.seeds.append(table.model_copy(update={"where": str(folder)}))
    for seed, path in seed_folders(folder, table).items():
        _read_seed(path, seed, sources)
    return True


def _read_folder(folder: Path, sources: Sources) -> bool:
    """Read seeds, a run, a training or every result of a folder; tell whether there is one."""
    if table := _table(folder):
        return _read_seeds(folder, table, sources)
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
    seeds = [_read_seed(path, seed, sources) for seed, path in seed_folders(folder).items()]
    return any(found + seeds)


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

"""Results on disk: one system on one task, and comparisons of systems.

A folder holds the results of one system::

    beir-scifact.json             scores, intervals, settings, fingerprints, seconds; written last, marks it as finished
    beir-scifact.per-query.tsv    query, system, metric, value
    beir-scifact.trec             the run

Sentence pairs have the first file only; averages of several tasks the first two.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from llama2vec.artifact import new_path
from llama2vec.data.tasks.ties import kept_apart
from llama2vec.data.tasks.trec import write_run
from llama2vec.errors import DataError, EvaluationError
from llama2vec.files import (
    FileKind,
    check_replaceable,
    disk_errors,
    link_tree,
    put_in_place,
    read_text,
    remove,
    write_output,
)
from llama2vec.manifest import code_version, sealed, unsealed
from llama2vec.records import Report, Run
from llama2vec.score.comparison import Comparison

FORMAT, COMPARISON_FORMAT, VERSION = "llama2vec-evaluation", "llama2vec-comparison", 1
QUERY_VALUES = "per-query.tsv"
_HEADER = "query\tsystem\tmetric\tvalue"
RESULT_FILE = FileKind("a result of `llama2vec evaluate`", rb'\{\s*"format": "llama2vec-evaluation"')
COMPARISON_FILE = FileKind(
    "a comparison of runs", rb'\{\s*("comparisons": \[\s*\{\s*)?"format": "llama2vec-comparison"'
)
_LOCK = ".lock-"
_VALUES_FILE = FileKind("values per query", rb"query\tsystem\tmetric\tvalue\n")
T = TypeVar("T")
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NUMBERS = TypeAdapter(dict[str, Number])


class _Saved(BaseModel):
    """What a result's JSON holds besides format and version."""

    task: Annotated[str, Field(min_length=1)]
    system: str
    metrics: Annotated[dict[str, Number], Field(min_length=1)]
    intervals: dict[str, tuple[Number, Number]]
    settings: dict[str, Any]
    seconds: Number


_SAVED = TypeAdapter(_Saved)
_COMPARISON = TypeAdapter(Comparison)


@dataclass(frozen=True, slots=True)
class Result:
    """One system on one task: scores, how long scoring took, and whether an earlier call did it (``kept``)."""

    report: Report
    seconds: float
    kept: bool = False


def result_stem(task: str) -> str:
    """Return the stem of a task's files.

    >>> result_stem("beir/scifact")
    'beir-scifact'
    """
    return task.replace("/", "-").replace(":", "-")


@contextmanager
def results_folder(output: Path, *, replaces: bool, keep: str) -> Iterator[Path]:
    """Give the folder to write results to: the output, or a copy next to it whose end replaces the output in one step.

    Args:
        output: Folder of results; its owner calls.
        replaces: Results in it are made again; they stay until the new ones are whole. Whatever else somebody writes
            into the output meanwhile is carried over.
        keep: Name of a folder in the copy; the folders in it are left to the next attempt when this one fails.
    """
    if not replaces:
        with disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
        yield output
        return
    check_replaceable(output)
    target = output.resolve()
    new = new_path(target)

    def clear() -> None:
        for path in (*new.glob("*"), *new.glob(f"{keep}/*")):
            if path != new / keep and (path.parent == new or path.is_file()):
                remove(path)
        for folder in (new / keep, new):
            with suppress(OSError):
                folder.rmdir()  # unless something is kept in it

    with disk_errors(output):
        clear()
        new.mkdir(exist_ok=True)
        for path in target.iterdir():
            if not path.name.startswith(_LOCK) and not os.path.lexists(new / path.name):
                link_tree(path, new / path.name)
        before, linked = _states(target), _states(new)
    try:
        yield new
    except BaseException:
        with suppress(OSError):
            clear()
        raise
    with disk_errors(output):
        made = _states(new)
        for name, state in _states(target).items():
            appeared = name not in before and name not in made and not name.startswith(f"{keep}/")
            # Written here, and not by us.
            changed = name in made and made[name] == linked.get(name) and state != before.get(name)
            if appeared or changed:
                remove(new / name)
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                link_tree(target / name, new / name)
        put_in_place(new, target)


def _states(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return the relative path of every file and link in a folder, and what changes when it is written again."""
    found = {}
    for path in folder.rglob("*"):
        if (path.is_symlink() or path.is_file()) and not path.name.startswith(_LOCK):
            with suppress(FileNotFoundError):
                state = path.lstat()
                found[path.relative_to(folder).as_posix()] = state.st_ino, state.st_mtime_ns, state.st_size
    return found


def write_result(folder: Path, result: Result, run: Run | None = None) -> None:
    """Write the files of a result, the JSON last; ``run`` is None for sentence pairs and averages."""
    report, stem = result.report, result_stem(result.report.task)
    (folder / f"{stem}.json").unlink(missing_ok=True)
    if run is not None:
        write_run(kept_apart(run), folder / f"{stem}.trec", overwrite=True)
    if report.per_query:
        lines = [_HEADER]
        for metric, values in report.per_query.items():
            lines += [f"{query_id}\t{report.system}\t{metric}\t{value!r}" for query_id, value in values.items()]
        write_output(folder / f"{stem}.{QUERY_VALUES}", "\n".join(lines) + "\n", _VALUES_FILE, overwrite=True)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "task": report.task,
        "system": report.system,
        "metrics": dict(report.metrics),
        "intervals": {metric: list(bounds) for metric, bounds in report.intervals.items()},
        "settings": {**report.settings, "code": code_version()},
        "seconds": round(result.seconds, 3),
    }
    write_sealed_json(folder / f"{stem}.json", content, RESULT_FILE, overwrite=True)


def write_sealed_json(path: str | Path, data: Mapping[str, Any], kind: FileKind, *, overwrite: bool = False) -> None:
    """Write data as indented JSON, atomically, with a hash of it that :func:`parse_json` checks.

    NaN and infinity, which JSON lacks, raise an EvaluationError.
    """
    try:
        plain = json.loads(json.dumps(data, allow_nan=False, default=str))
        text = json.dumps(sealed(plain), indent=2, ensure_ascii=False)
    except ValueError as error:
        raise EvaluationError(f"{path}: a value cannot be written as JSON ({error}); correct it") from None
    write_output(Path(path), text + "\n", kind, overwrite=overwrite)


def read_result(file: Path) -> Result:
    """Read a result without its values per query; anything else raises a DataError."""
    return result_from_json(read_json(file), file)


def result_from_json(content: Mapping[str, Any], file: Path) -> Result:
    """Return the result that a file's JSON content holds; arguments and errors as in :func:`read_result`."""
    if not is_result(content):
        raise DataError(f"{file} is not a result of `llama2vec evaluate`; give a TASK.json of its output")
    saved = validated(_SAVED, content, str(file))
    report = Report(saved.task, saved.system, saved.metrics, saved.intervals, {}, saved.settings)
    return Result(report, saved.seconds, kept=True)


def with_query_values(file: Path, result: Result) -> Result:
    """Return a result with its values per query, if there are any; ``file`` is the result's own."""
    values_file = query_values_file(file)
    values = _read_query_values(values_file, result.report.system) if values_file.is_file() else {}
    return replace(result, report=replace(result.report, per_query=values))


def query_values_file(file: Path) -> Path:
    """Return where the values per query of a result file are."""
    return file.with_name(f"{file.stem}.{QUERY_VALUES}")


def is_result(content: Mapping[str, Any]) -> bool:
    """Tell whether JSON content is a result of an evaluation."""
    return (content.get("format"), content.get("version")) == (FORMAT, VERSION)


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; :func:`comparison_from_json` gives it back."""
    return {"format": COMPARISON_FORMAT, "version": VERSION, **asdict(comparison)}


def comparison_from_json(data: object, where: str = "the comparison") -> Comparison:
    """Return the comparison that :func:`comparison_to_json` wrote; anything else raises a DataError."""
    head = {"format": COMPARISON_FORMAT, "version": VERSION}
    if not isinstance(data, dict) or {key: data.get(key) for key in head} != head:
        raise DataError(
            f"{where} is not a {COMPARISON_FORMAT} of version {VERSION}; give what `llama2vec compare --output` wrote"
        )
    return validated(_COMPARISON, {key: value for key, value in data.items() if key not in head}, where)


def write_comparisons(path: str | Path, comparisons: Sequence[Comparison], *, overwrite: bool = False) -> None:
    """Write comparisons as JSON: one as :func:`comparison_to_json` has it, several as ``{"comparisons": […]}``."""
    data = [comparison_to_json(one) for one in comparisons]
    write_sealed_json(path, data[0] if len(data) == 1 else {"comparisons": data}, COMPARISON_FILE, overwrite=overwrite)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it holds something else, a DataError if it is not JSON."""
    try:
        return parse_json(read_text(path), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not valid UTF-8; make the result again") from None


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Return the object in a JSON text; arguments and errors as in :func:`read_json`."""

    def refuse(constant: str) -> float:
        raise DataError(f"{where} holds {constant}, which is not a score; make the result again")

    try:
        content = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read as JSON ({error}); make the result again") from None
    if not isinstance(content, dict):
        return {}
    data = unsealed(content)
    if data is None:
        raise DataError(f"{where} was changed after it was written; restore it, or make the result again")
    return data


def validated(kind: TypeAdapter[T], data: object, where: str) -> T:
    """Return data as what they should be; a DataError names the first problem."""
    try:
        return kind.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise DataError(f"{where} is damaged ({problem}); make it again") from None


def _read_query_values(path: Path, system: str) -> dict[str, dict[str, float]]:
    """Return metric → query id → value."""
    found: dict[str, dict[str, float]] = {}
    head, *lines = read_text(path).removesuffix("\n").split("\n")
    if head != _HEADER:
        raise DataError(f"{path}:1: the header must be query, system, metric, value, separated by tabs")
    for number, line in enumerate(lines, start=2):
        try:
            query_id, name, metric, text = line.split("\t")
            value = float(text)
        except ValueError:
            raise DataError(f"{path}:{number} is not query, system, metric and number; evaluate again") from None
        if not math.isfinite(value):
            raise DataError(f"{path}:{number}: {text!r} is not a finite number; evaluate again")
        if name == system and query_id in found.get(metric, {}):
            raise DataError(f"{path}:{number}: {query_id!r} already has {metric}; evaluate again")
        if name == system:
            found.setdefault(metric, {})[query_id] = value
    return found

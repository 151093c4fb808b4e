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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llama2vec.data.trec import write_run
from llama2vec.errors import DataError, EvaluationError
from llama2vec.files import write_output
from llama2vec.manifest import code_version
from llama2vec.records import Report, Run
from llama2vec.score.comparison import Comparison

FORMAT, COMPARISON_FORMAT, VERSION = "llama2vec-evaluation", "llama2vec-comparison", 1
QUERY_VALUES = "per-query.tsv"
_HEADERS = ("query\tsystem\tmetric\tvalue", "query\tsystem\tmeasure\tvalue")
"""As written now, and by earlier versions."""
_COMPARISON = TypeAdapter(Comparison)


@dataclass(frozen=True, slots=True)
class Result:
    """One system on one task.

    Attributes:
        report: Scores.
        seconds: How long scoring took.
        kept: Scored by an earlier call.
    """

    report: Report
    seconds: float
    kept: bool = False


def result_stem(task: str) -> str:
    """Return the stem of a task's files.

    >>> result_stem("beir/scifact")
    'beir-scifact'
    """
    return task.replace("/", "-").replace(":", "-")


def write_result(folder: Path, result: Result, run: Run | None = None) -> None:
    """Write the files of a result, the JSON last; ``run`` is None for sentence pairs and averages.

    Raises:
        DataError: A file cannot be written.
        EvaluationError: A value that is not finite.
    """
    report, stem = result.report, result_stem(result.report.task)
    (folder / f"{stem}.json").unlink(missing_ok=True)
    if run is not None:
        write_run(run, folder / f"{stem}.trec", overwrite=True)
    if report.per_query:
        lines = [_HEADERS[0]]
        for metric, values in report.per_query.items():
            lines += [f"{query_id}\t{report.system}\t{metric}\t{value!r}" for query_id, value in values.items()]
        write_output(folder / f"{stem}.{QUERY_VALUES}", "\n".join(lines) + "\n", overwrite=True)
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
    write_json(folder / f"{stem}.json", content, overwrite=True)


def write_json(path: str | Path, data: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write data as indented JSON, atomically; paths and the like become text.

    Raises:
        OutputExistsError: The file exists and ``overwrite`` is not given.
        EvaluationError: NaN or infinity, which JSON lacks.
        DataError: The file cannot be written.
    """
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError as error:
        raise EvaluationError(f"{path}: a value cannot be written as JSON ({error}); correct it") from None
    write_output(Path(path), text + "\n", overwrite=overwrite)


def read_result(file: Path) -> Result:
    """Read a result without its values per query.

    Raises:
        DataError: The file is not a whole result.
    """
    content = read_json(file)
    if is_old_scores(content):
        raise DataError(f"{file} was written by an earlier version; score again: llama2vec evaluate MODEL --task …")
    if not is_result(content):
        raise DataError(f"{file} is not a result of `llama2vec evaluate`")
    task, system = content.get("task"), content.get("system")
    if not isinstance(task, str) or not task:
        raise DataError(f"{file} names no task; evaluate again")
    where = f"{file}: {system}"
    metrics = numbers(mapping(content, "metrics", file), where)
    if not metrics:
        raise DataError(f"{where} has no metric; evaluate again")
    settings = dict(mapping(content, "settings", file))
    if "measures" in settings:
        settings["metrics"] = settings.pop("measures")
    intervals = {}
    for metric, bounds in mapping(content, "intervals", file).items():
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise DataError(f"{where}: the interval of {metric} is {bounds!r}; two numbers are expected")
        low, high = numbers(dict(zip(("low end", "high end"), bounds, strict=True)), where).values()
        intervals[metric] = (low, high)
    seconds = numbers({"seconds": content.get("seconds", 0.0)}, where)["seconds"]
    return Result(Report(task, str(system), metrics, intervals, {}, settings), seconds, kept=True)


def with_query_values(file: Path, result: Result) -> Result:
    """Return a result with its values per query from the TSV beside ``file``, if there is one.

    Raises:
        DataError: A faulty line.
    """
    beside = query_values_file(file)
    values = _read_query_values(beside).get(result.report.system, {}) if beside.is_file() else {}
    return replace(result, report=replace(result.report, per_query=values))


def query_values_file(file: Path) -> Path:
    """Return where the values per query of a result file are."""
    return file.with_name(f"{file.stem}.{QUERY_VALUES}")


def is_result(content: Mapping[str, Any]) -> bool:
    """Tell whether JSON content is a result of an evaluation."""
    return (content.get("format"), content.get("version")) == (FORMAT, VERSION)


def is_old_scores(content: Mapping[str, Any]) -> bool:
    """Tell whether JSON content is the scores of several systems, as earlier versions wrote them."""
    tasks = content.get("tasks") if "format" not in content else None
    return "format" not in content and (
        {"task", "systems", "intervals"} <= content.keys()
        or (isinstance(tasks, list) and bool(tasks) and isinstance(tasks[0], dict) and "systems" in tasks[0])
    )


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; :func:`comparison_from_json` gives it back."""
    return {"format": COMPARISON_FORMAT, "version": VERSION, **asdict(comparison)}


def comparison_from_json(data: object) -> Comparison:
    """Return the comparison that :func:`comparison_to_json` wrote.

    Raises:
        EvaluationError: The data are not such a comparison.
    """
    head = {"format": COMPARISON_FORMAT, "version": VERSION}
    if not isinstance(data, dict) or {key: data.get(key) for key in head} != head:
        raise EvaluationError(
            f"not a {COMPARISON_FORMAT} of version {VERSION}; give what `llama2vec compare --json` wrote"
        )
    content = {key: value for key, value in data.items() if key not in head}
    # Earlier versions called the metric a measure.
    content["metric"] = content.pop("measure", content.get("metric"))
    try:
        return _COMPARISON.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg'].lower()}"
        raise EvaluationError(
            f"the comparison is damaged ({problem}); write it again with `llama2vec compare`"
        ) from None


def write_comparisons(path: str | Path, comparisons: Sequence[Comparison], *, overwrite: bool = False) -> None:
    """Write comparisons as JSON: one as :func:`comparison_to_json` has it, several as ``{"comparisons": […]}``."""
    data = [comparison_to_json(one) for one in comparisons]
    write_json(path, data[0] if len(data) == 1 else {"comparisons": data}, overwrite=overwrite)


def read_comparisons(path: str | Path) -> list[Comparison]:
    """Return the comparisons that :func:`write_comparisons` wrote.

    Raises:
        EvaluationError: A file that is missing or holds something else.
    """
    data = read_json(Path(path))
    try:
        return [comparison_from_json(one) for one in data.get("comparisons", [data])]
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it holds something else.

    Raises:
        DataError: Not readable, not JSON, or NaN or infinity in it.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"), str(path))
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
    return content if isinstance(content, dict) else {}


def mapping(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return a part of JSON content that maps names to values; empty if it is absent."""
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise DataError(f"{path}: {name} is {found!r}; names with values are expected")
    return found


def numbers(content: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return content after checking that every value is a finite number."""
    for name, value in content.items():
        # An int may be too big for isfinite.
        known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if not known:
            raise DataError(f"{where}: {name} is {value!r}, not a finite number; make the result again")
    return dict(content)


def _read_query_values(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return system → metric → query id → value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(encoding="utf-8") as stream:
        if next(stream, "").rstrip("\n") not in _HEADERS:
            raise DataError(f"{path}:1: the header must be query, system, metric, value, separated by tabs")
        for number, line in enumerate(stream, start=2):
            row = line.rstrip("\n").split("\t")
            if len(row) != 4:
                raise DataError(f"{path}:{number} has {len(row)} columns instead of 4; evaluate again")
            query_id, system, metric, text = row
            values = found.setdefault(system, {}).setdefault(metric, {})
            if query_id in values:
                raise DataError(f"{path}:{number}: {query_id!r} already has {metric} of {system!r}; evaluate again")
            try:
                values[query_id] = float(text)
            except ValueError:
                values[query_id] = math.nan
            if not math.isfinite(values[query_id]):
                raise DataError(f"{path}:{number}: {text!r} is not a finite number; evaluate again")
    return found

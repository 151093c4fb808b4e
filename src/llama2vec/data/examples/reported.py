"""A file of training examples with a report of how it was made beside it: ``OUTPUT`` and ``OUTPUT.report.json``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llama2vec.artifact import Found, Kind, Work, find, new_path, read_object
from llama2vec.data.examples.labeled import write_examples
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.files import check_inputs, disk_errors, file_sha256, write_json
from llama2vec.records import TrainingExample


def report_path(output: str | Path) -> Path:
    """Return where the report of an output lies.

    >>> report_path("mined.jsonl").name
    'mined.jsonl.report.json'
    """
    return Path(f"{output}.report.json")


def reported_kind(noun: str) -> Kind:
    """Return the kind of such files: what made one stands in its report."""
    return Kind(noun, _read, resumable=False, is_folder=False)


def check_reported(output: Path, stage: str) -> None:
    """Refuse, before anything is read, an output that cannot hold examples, or a report that another program wrote."""
    report = report_path(output)
    if os.path.lexists(report) and (read_object(report) or {}).get("stage") != stage:
        raise OutputExistsError(f"{report}: exists but did not come from `llama2vec {stage}`; choose another output")
    if output.is_dir() or not output.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{output} cannot hold training examples; give a path that ends in .jsonl or .jsonl.gz")


def check_kept_apart(output: Path, kind: Kind, inputs: Sequence[str | Path | None]) -> None:
    """Refuse, before a model is loaded, an output or a report that is an input, and an output of another kind.

    Raises:
        OutputExistsError: As :func:`llama2vec.files.check_inputs` and :func:`llama2vec.artifact.find`.
    """
    check_inputs_apart(output, inputs)
    find(output, kind)


def check_inputs_apart(output: Path, inputs: Sequence[str | Path | None]) -> None:
    """Raise an OutputExistsError for an output or a report that is, holds or lies in an input."""
    for file in (output, report_path(output)):
        check_inputs(file, inputs)


def finish_reported(work: Work, examples: Iterable[TrainingExample], manifest: Mapping[str, Any]) -> None:
    """Write the examples, and ``manifest`` as their report; both appear whole or not at all."""
    new, report = work.begin(), new_path(report_path(work.output))
    with disk_errors(work.output), _removed_on_failure(report):
        write_examples(examples, new)
        written = {"bytes": new.stat().st_size, "sha256": file_sha256(new)}
        # Before the examples that it describes: after a kill between the two, the next call puts it in place.
        write_json(report, {**manifest, "output": written}, sweep=True)
    work.finish()
    settle_report(work.output)


def is_reported(output: Path) -> bool:
    """Whether a file of examples has its report beside it."""
    return output.is_file() and _describes(read_object(report_path(output)), output)


def settle_report(output: Path) -> None:
    """Put the report next to the output that it describes; remove one that describes another."""
    report = new_path(report_path(output))
    with suppress(FileNotFoundError), disk_errors(output):
        if _describes(read_object(report), output):
            os.replace(report, report_path(output))
        else:
            report.unlink(missing_ok=True)


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _describes(report: Mapping[str, Any] | None, output: Path) -> bool:
    written = (report or {}).get("output")
    return isinstance(written, dict) and written.get("sha256") == file_sha256(output)


def _read(output: Path) -> Found | None:
    """Return what made a file of examples, None for any other file."""
    for path in (report_path(output), new_path(report_path(output))):
        report = read_object(path) or {}
        if _describes(report, output):
            return Found({"settings": report.get("settings"), "inputs": report.get("inputs")}, finished=True)
    return None

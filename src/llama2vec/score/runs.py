"""Runs as files: their names, their order where scores are equal, and what the results beside them say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama2vec.data.corpus.passages import corpus_fingerprint
from llama2vec.data.settings import Ties
from llama2vec.data.tasks.ties import kept_apart
from llama2vec.data.tasks.trec import read_run
from llama2vec.errors import DataError, EvaluationError
from llama2vec.records import Run
from llama2vec.score.results import is_result, read_json


def ties_of(path: Path) -> Ties:
    """Return how equal scores of a run file are ranked: as its result has it, else as trec_eval does.

    Runs of other systems are published with trec_eval's scores. A run of an earlier version of ``evaluate`` holds equal
    scores, and its result was made by ascending id.
    """
    if not is_result(_result_of(path)):
        return "trec_eval"
    return "trec_eval" if _settings_of(path).get("ties") == "trec_eval" else "id"


def read_ranked_run(path: Path) -> Run:
    """Return a TREC run whose equal scores were ranked as :func:`ties_of` says, and are no longer equal."""
    return kept_apart(read_run(path), ties_of(path))


def read_named_runs(paths: Sequence[Path]) -> list[Run]:
    """Read TREC runs; if two share a tag, name every run after its path."""
    resolved = [path.resolve() for path in paths]
    twice = next((path for place, path in enumerate(paths) if resolved[place] in resolved[:place]), None)
    if twice is not None:
        raise EvaluationError(f"{twice} is given twice; compare two different runs")
    runs = [read_run(path) for path in paths]
    if len({run.tag for run in runs}) == len(runs):
        return runs
    return [replace(run, tag=str(_run_stem(path))) for run, path in zip(runs, paths, strict=True)]


def check_same_corpus(paths: Sequence[Path], corpus_source: str | None = None) -> None:
    """Check that runs were made on one corpus, as far as their results tell, and on that of ``corpus_source``."""
    found_in = [(str(path), _settings_of(path).get("corpus_fingerprint")) for path in paths]
    known = [(path, found) for path, found in found_in if isinstance(found, str)]
    if known and corpus_source is not None:
        known.append((corpus_source, corpus_fingerprint(corpus_source)))
    for where, found in known[1:]:
        if found != known[0][1]:
            both = f"{known[0][0]} ({known[0][1][:12]}) and {where} ({found[:12]})"
            raise EvaluationError(f"{both} belong to different corpora, or one that changed; compare on one corpus")


def task_of(paths: Sequence[Path], judgments: str) -> str | None:
    """Return the task that the results of the runs name, if all name one and were made with these judgments.

    ``judgments`` is the fingerprint of the task's queries and judgments.
    """
    names = [_result_of(path).get("task") for path in paths]
    same = all(_settings_of(path).get("judgments_fingerprint") == judgments for path in paths)
    return names[0] if same and len(set(map(str, names))) == 1 and isinstance(names[0], str) else None


def same_id_choice(paths: Sequence[Path], otherwise: bool | None) -> bool | None:
    """Return ``exclude_same_id`` as the results of the runs have it; ``otherwise`` where no run has results.

    Raises:
        EvaluationError: The runs were scored with different choices.
    """
    return one_same_id_choice([(path, _settings_of(path)) for path in paths], otherwise)


def one_same_id_choice(
    scored: Iterable[tuple[object, Mapping[str, Any]]], otherwise: bool | None = None
) -> bool | None:
    """Return the one ``exclude_same_id`` of results, each given by its place and settings; raises likewise."""
    known: list[tuple[object, bool | None]] = [
        (where, facts["exclude_same_id"]) for where, facts in scored if "exclude_same_id" in facts
    ]
    if not known:
        return otherwise
    (first, choice), *others = known
    for where, other in others:
        if other != choice:
            both = f"{first} (exclude_same_id={json.dumps(choice)}) and {where} ({json.dumps(other)})"
            raise EvaluationError(f"{both} were scored differently; score one of them again")
    return choice


def _run_stem(path: Path) -> Path:
    return path.with_name(Path(path.name.removesuffix(".gz")).stem)


def _result_of(path: Path) -> dict[str, Any]:
    """Return the result that ``evaluate`` wrote with a run; empty for runs of other systems."""
    file = Path(f"{_run_stem(path)}.json")
    try:
        return read_json(file) if file.is_file() else {}
    except DataError:
        return {}


def _settings_of(path: Path) -> dict[str, Any]:
    """Return the settings of the result that ``evaluate`` wrote with a run."""
    settings = _result_of(path).get("settings")
    return settings if isinstance(settings, dict) else {}

"""TREC runs of any system: their names, the corpus they were made on, and the texts that they returned."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.trec import read_run
from llama2vec.errors import DataError, EvaluationError
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.hits import snippet
from llama2vec.score.comparison import Comparison, ShownPassage, ShownQuery
from llama2vec.score.results import read_json

logger = logging.getLogger(__name__)

_SNIPPET_CHARACTERS = 160


def read_named_runs(paths: Sequence[Path]) -> list[Run]:
    """Read TREC runs; if two share a tag, name every run after its path.

    Raises:
        RunFormatError: A file that cannot be read, or a faulty line.
        EvaluationError: One file twice.
    """
    resolved = [path.resolve() for path in paths]
    twice = next((path for place, path in enumerate(paths) if resolved[place] in resolved[:place]), None)
    if twice is not None:
        raise EvaluationError(f"{twice} is given twice; compare two different runs")
    runs = [read_run(path) for path in paths]
    if len({run.tag for run in runs}) == len(runs):
        return runs
    names = [str(path.with_name(_stem(path))) for path in paths]
    return [dataclasses.replace(run, tag=name) for run, name in zip(runs, names, strict=True)]


def check_same_corpus(paths: Sequence[Path], corpus_source: str | None = None) -> None:
    """Check that runs were made on one corpus, as far as their results tell.

    Args:
        paths: Run files; one without a result of ``evaluate`` in its folder is taken on trust.
        corpus_source: The corpus to show texts from, which must be the same, too.

    Raises:
        EvaluationError: The fingerprints of two corpora differ.
        CorpusFormatError: The corpus cannot be read.
    """
    known = [(str(path), found) for path in paths if (found := _corpus_of(path))]
    if known and corpus_source is not None:
        known.append((corpus_source, corpus_fingerprint(corpus_source)))
    for where, found in known[1:]:
        if found != known[0][1]:
            both = f"{known[0][0]} ({known[0][1][:12]}) and {where} ({found[:12]})"
            raise EvaluationError(f"{both} belong to different corpora, or one that changed; compare on one corpus")


def task_of(paths: Sequence[Path]) -> str | None:
    """Return the task that the results of the runs name; None if one is missing or they differ."""
    names = {_result_of(path).get("task") for path in paths}
    name = names.pop() if len(names) == 1 else None
    return name if isinstance(name, str) else None


def with_texts(
    comparisons: Sequence[Comparison], runs: Sequence[Run], queries: Iterable[Query], corpus_source: str
) -> list[Comparison]:
    """Return the comparisons with the texts of the queries and passages they show; the corpus is read once.

    Raises:
        EvaluationError: Most of what a run returned is not in the corpus.
        DataError: The corpus cannot be read.
    """
    returned = {run.tag: {passage_id for scores in run.results.values() for passage_id in scores} for run in runs}
    missing = set().union(*returned.values())
    queries_shown = [query for comparison in comparisons for query in comparison.shown.values()]
    shown = {passage.id for query in queries_shown for found in query.answers.values() for passage in found}
    texts: dict[str, Passage] = {}
    for passage in read_passages(corpus_source):
        missing.discard(passage.id)
        if passage.id in shown:
            texts[passage.id] = passage
    for tag, ids in returned.items():
        _check_known(tag, len(ids & missing), len(ids), corpus_source)
    asked = {query.id: query.text for query in queries}

    def told(query_id: str, query: ShownQuery) -> ShownQuery:
        text = asked.get(query_id, "")
        answers = {
            system: tuple(_with_text(passage, text, texts) for passage in found)
            for system, found in query.answers.items()
        }
        return ShownQuery(text, answers)

    return [
        dataclasses.replace(one, shown={query_id: told(query_id, query) for query_id, query in one.shown.items()})
        for one in comparisons
    ]


def _with_text(shown: ShownPassage, query: str, texts: Mapping[str, Passage]) -> ShownPassage:
    found = texts.get(shown.id)
    if found is None:
        return shown
    part = snippet(found.text, query, _SNIPPET_CHARACTERS)
    return dataclasses.replace(shown, title=found.title, snippet=part)


def _check_known(tag: str, unknown: int, count: int, corpus_source: str) -> None:
    message = f"run '{tag}': {unknown:,} of the {count:,} passages it returned are not in {corpus_source}"
    if 2 * unknown > count:
        raise EvaluationError(f"{message}; give the corpus that was searched")
    if unknown:
        logger.warning("%s", message)


def _corpus_of(path: Path) -> str | None:
    """Return the corpus fingerprint in the result of a run; None if unknown."""
    settings = _result_of(path).get("settings")
    found = settings.get("corpus_fingerprint") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else None


def _result_of(path: Path) -> dict[str, Any]:
    """Return the result that ``evaluate`` wrote with a run; empty for runs of other systems."""
    file = path.with_name(f"{_stem(path)}.json")
    try:
        return read_json(file) if file.is_file() else {}
    except DataError:
        return {}


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem

"""Run files of any system, the corpus they were made on, and the texts behind the queries that changed."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.trec import read_run
from llama2vec.errors import EvaluationError
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.search import snippet
from llama2vec.score.comparison import Comparison, ShownPassage, ShownQuery

logger = logging.getLogger(__name__)

_SNIPPET_CHARACTERS = 160


def read_named_runs(paths: Sequence[Path]) -> list[Run]:
    """Read TREC runs; where two have one tag, every run is named after its file, with as much of the path as needed.

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
    return [dataclasses.replace(run, tag=name) for run, name in zip(runs, _file_names(resolved), strict=True)]


def check_same_corpus(paths: Sequence[Path], corpus_source: str | None = None) -> None:
    """Make sure that runs were made on one corpus, as far as the JSON beside a run tells (``evaluate --output``).

    Args:
        paths: Of the runs; one without such a file is taken on trust.
        corpus_source: The corpus to show texts from, which must be the same, too.

    Raises:
        EvaluationError: The fingerprints of two corpora differ.
        CorpusFormatError: The corpus cannot be read.
    """
    known = [(str(path), found) for path in paths if (found := _fingerprint_beside(path))]
    if known and corpus_source is not None:
        known.append((corpus_source, corpus_fingerprint(corpus_source)))
    for where, found in known[1:]:
        if found != known[0][1]:
            both = f"{known[0][0]} ({known[0][1][:12]}) and {where} ({found[:12]})"
            raise EvaluationError(f"{both} belong to different corpora, or one that changed; compare on one corpus")


def task_beside(paths: Sequence[Path]) -> str | None:
    """Return the task that the JSON files beside the runs name; None where one has no such file or they differ."""
    names = {_beside(path).get("task") for path in paths}
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
    wanted = set().union(*returned.values())
    shown = {
        passage.id
        for comparison in comparisons
        for query in comparison.shown.values()
        for passages in query.answers.values()
        for passage in passages
    }
    texts: dict[str, Passage] = {}
    for passage in read_passages(corpus_source):
        wanted.discard(passage.id)
        if passage.id in shown:
            texts[passage.id] = passage
    for tag, ids in returned.items():
        _check_known(tag, len(ids & wanted), len(ids), corpus_source)
    asked = {query.id: query.text for query in queries}
    return [
        dataclasses.replace(
            comparison,
            shown={
                query_id: _shown_with_texts(query, asked.get(query_id, ""), texts)
                for query_id, query in comparison.shown.items()
            },
        )
        for comparison in comparisons
    ]


def _shown_with_texts(query: ShownQuery, text: str, texts: Mapping[str, Passage]) -> ShownQuery:
    def tell(passage: ShownPassage) -> ShownPassage:
        found = texts.get(passage.id)
        if found is None:
            return passage
        part = snippet(found.text, text, _SNIPPET_CHARACTERS)
        return dataclasses.replace(passage, title=found.title, snippet=part)

    return ShownQuery(text, {system: tuple(map(tell, passages)) for system, passages in query.answers.items()})


def _check_known(tag: str, unknown: int, count: int, corpus_source: str) -> None:
    message = f"run '{tag}': {unknown:,} of the {count:,} passages it returned are not in {corpus_source}"
    if 2 * unknown > count:
        raise EvaluationError(f"{message}; give the corpus that was searched")
    if unknown:
        logger.warning("%s", message)


def _fingerprint_beside(path: Path) -> str | None:
    """Return the corpus fingerprint from the JSON beside a run file; None where there is none."""
    settings = _beside(path).get("settings")
    found = settings.get("corpus_fingerprint") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else None


def _beside(path: Path) -> dict[str, Any]:
    """Return the JSON that ``evaluate --output`` leaves beside a run; empty where there is none."""
    try:
        data = json.loads(path.with_name(f"{_stem(path)}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def _file_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths, without suffixes, that tell them apart.

    >>> _file_names([Path("/a/x/run.trec"), Path("/a/y/run.trec")])
    ['x/run', 'y/run']
    """
    folders = [path.parent.parts for path in paths]
    for kept in range(max(map(len, folders))):
        ends = [parts[len(parts) - kept :] for parts in folders]
        names = ["/".join([*end, _stem(path)]) for end, path in zip(ends, paths, strict=True)]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]

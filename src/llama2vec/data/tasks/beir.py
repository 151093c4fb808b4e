"""A BEIR folder as a retrieval task."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from llama2vec.data.corpus.passages import read_queries
from llama2vec.data.corpus.sources import beir_file
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.trec import read_qrels
from llama2vec.errors import CorpusFormatError, EvaluationError
from llama2vec.records import Qrels, Query
from llama2vec.terminal import counted, first_few

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BeirTask:
    """Queries, their judgments, and the source of the passages."""

    name: str  # Folder and split: ``cranfield/test``
    queries: list[Query]  # Those that the split judges, in file order
    qrels: Qrels  # Relevance judgments
    corpus_source: str  # What :func:`llama2vec.data.corpus.passages.read_passages` reads


def read_beir(folder: str | Path, split: str = "test", reading: ReadingSettings | None = None) -> BeirTask:
    """Return the task of one split of a BEIR folder, without reading the corpus.

    Call :func:`check_judged_passages` once the ids of the corpus are known. ``reading`` names the fields of the rows,
    as in :func:`llama2vec.data.corpus.passages.read_queries`.

    Raises:
        DataError: No such folder, corpus, queries or split, or faulty judgments.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusFormatError(f"{folder}: no such folder; give a BEIR folder")
    if beir_file(folder, "corpus") is None:
        raise CorpusFormatError(f"{folder} has no corpus.jsonl or corpus.jsonl.gz; give a BEIR folder")
    qrels_path = folder / "qrels" / f"{split}.tsv"
    if not qrels_path.is_file():
        splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        hint = f"choose from {', '.join(splits)}" if splits else "put judgments into qrels/<split>.tsv"
        raise CorpusFormatError(f"{folder} has no split '{split}'; {hint}")
    qrels = read_qrels(qrels_path)
    queries = [query for query in read_queries(folder, reading) if query.id in qrels]
    check_judged_queries(qrels, queries, str(qrels_path))
    return BeirTask(f"{folder.resolve().name}/{split}", queries, qrels, str(folder))


def check_judged_queries(qrels: Qrels, queries: Iterable[Query], where: str) -> None:
    """Raise CorpusFormatError if a judged query has no text; the message names up to three."""
    known = {query.id for query in queries}
    unknown = [query_id for query_id in qrels if query_id not in known]
    if unknown:
        some = _some(unknown, "query", "queries")
        raise CorpusFormatError(f"{where} judges {some} that the query file lacks; take both from one release")


def check_judged_passages(qrels: Qrels, known_ids: Container[str]) -> None:
    """Raise EvaluationError if a corpus with these passage ids lacks a judged one, which no system could find."""
    unknown = missing_judged(qrels, known_ids)
    if unknown:
        some = _some(unknown, "passage", "passages")
        raise EvaluationError(f"the judgments name {some} missing from the corpus; use the corpus they belong to")


def missing_judged(qrels: Qrels, known_ids: Container[str]) -> list[str]:
    """Return the judged passages missing from the corpus, without duplicates, in the order of the judgments."""
    judged = dict.fromkeys(passage_id for gains in qrels.values() for passage_id in gains)
    return [passage_id for passage_id in judged if passage_id not in known_ids]


def warn_of_empty_queries(queries: Iterable[Query], where: str) -> None:
    """Warn of queries without text, which ask for nothing."""
    if empty := [query.id for query in queries if not query.text.strip()]:
        rest = "have no text, and their rankings mean nothing; write or remove them"
        if len(empty) == 1:
            rest = "has no text, and its ranking means nothing; write or remove it"
        logger.warning("%s: %s %s", where, _some(empty, "query", "queries"), rest)


def warn_of_unanswerable_queries(qrels: Qrels, where: str) -> None:
    """Warn of judged queries without a relevant passage: every metric counts them, as 0."""
    judged = [gains for gains in qrels.values() if gains]
    without = sum(max(gains.values()) <= 0 for gains in judged)
    if without:
        logger.warning(
            "%s: %s of %s no relevant passage in the judgments, and count as 0 in the means", where, f"{without:,}",
            counted(len(judged), "judged query has", "judged queries have"),
        )  # fmt: skip


def _some(ids: list[str], one: str, many: str) -> str:
    """Name up to three ids.

    >>> _some(["a", "b", "c", "d"], "query", "queries")
    "4 queries ('a', 'b', 'c', …)"
    """
    return f"{len(ids)} {one if len(ids) == 1 else many} ({first_few([*map(repr, ids)])})"

"""A BEIR folder as a retrieval task."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from llama2vec.data.corpus import read_queries
from llama2vec.data.trec import read_qrels
from llama2vec.errors import CorpusFormatError, EvaluationError
from llama2vec.records import Qrels, Query


@dataclass(frozen=True)
class BeirTask:
    """Queries, their judgments and where the passages are.

    Attributes:
        name: Folder and split: ``cranfield/test``.
        queries: The ones that the split's judgments name, in the order of the file.
        qrels: Relevance judgments.
        corpus_source: What :func:`llama2vec.data.corpus.read_passages` reads.
    """

    name: str
    queries: list[Query]
    qrels: Qrels
    corpus_source: str


def read_beir(folder: str | Path, split: str = "test") -> BeirTask:
    """Return the task of one split of a BEIR folder; the corpus itself is left to be streamed.

    Judged passages are not looked up here: call :func:`check_judged_passages` once the corpus' ids are known.

    Raises:
        CorpusFormatError: No such folder, corpus, queries or split (the message names the ones there are), or
            judgments of queries that the query file lacks.
        RunFormatError: A faulty line in the judgments.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusFormatError(f"{folder}: no such folder; give a BEIR folder")
    if not any((folder / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
        raise CorpusFormatError(f"{folder} has no corpus.jsonl or corpus.jsonl.gz; give a BEIR folder")
    qrels_path = folder / "qrels" / f"{split}.tsv"
    if not qrels_path.is_file():
        splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        hint = f"choose from {', '.join(splits)}" if splits else "put judgments into qrels/<split>.tsv"
        raise CorpusFormatError(f"{folder} has no split '{split}'; {hint}")
    qrels = read_qrels(qrels_path)
    queries = [query for query in read_queries(folder) if query.id in qrels]
    check_judged_queries(qrels, queries, str(qrels_path))
    return BeirTask(f"{folder.resolve().name}/{split}", queries, qrels, str(folder))


def check_judged_queries(qrels: Qrels, queries: Iterable[Query], where: str) -> None:
    """Make sure that every judged query has a text.

    Raises:
        CorpusFormatError: Names up to three that have none.
    """
    known = {query.id for query in queries}
    unknown = [query_id for query_id in qrels if query_id not in known]
    if unknown:
        some = _some(unknown, "query", "queries")
        raise CorpusFormatError(f"{where} judges {some} that the query file lacks; take both from one release")


def check_judged_passages(qrels: Qrels, known_ids: Container[str]) -> None:
    """Make sure that every judged passage is in the corpus: one that is not could never be found.

    >>> check_judged_passages({"q1": {"d1": 1}}, {"d1", "d2"})

    Args:
        qrels: Relevance judgments.
        known_ids: The corpus' passage ids; a set, so that looking up is quick.

    Raises:
        EvaluationError: Names up to three of the missing passages.
    """
    unknown = missing_judged(qrels, known_ids)
    if unknown:
        some = _some(unknown, "passage", "passages")
        raise EvaluationError(f"the judgments name {some} not in the corpus; evaluate on the corpus they belong to")


def missing_judged(qrels: Qrels, known_ids: Container[str]) -> list[str]:
    """Return the judged passages that are not known, each once, in the order of the judgments."""
    judged = dict.fromkeys(passage_id for gains in qrels.values() for passage_id in gains)
    return [passage_id for passage_id in judged if passage_id not in known_ids]


def _some(ids: list[str], one: str, many: str) -> str:
    """Name up to three ids.

    >>> _some(["a", "b", "c", "d"], "query", "queries")
    "4 queries ('a', 'b', 'c', …)"
    """
    named = ", ".join(map(repr, ids[:3])) + (", …" if len(ids) > 3 else "")
    return f"{len(ids)} {one if len(ids) == 1 else many} ({named})"

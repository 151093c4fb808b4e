"""One model on one task → a report: retrieval, sentence similarity, and BM25 beside them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from llama2vec.data.beir import BeirTask, check_judged_passages, read_beir
from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.sts import read_sentence_pairs
from llama2vec.evaluate.metrics import DEFAULT_MEASURES, evaluate_run
from llama2vec.evaluate.significance import bootstrap_spearman_interval
from llama2vec.evaluate.sts import score_similarities
from llama2vec.manifest import machine, versions
from llama2vec.records import Report
from llama2vec.retrieve.index import ExactIndex
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.search import search
from llama2vec.retrieve.store import VectorStore, write_store

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder


def check_task(task: BeirTask) -> int:
    """Read the whole corpus before any work: faulty lines and unknown judged passages show now, not after hours.

    Returns:
        The number of passages.
    """
    judged = {passage_id for gains in task.qrels.values() for passage_id in gains}
    known: set[str] = set()
    total = 0
    for passage in read_passages(task.corpus_source):
        total += 1
        if passage.id in judged:
            known.add(passage.id)
    check_judged_passages(task.qrels, known)
    return total


def score_bm25(folder: str | Path, split: str, *, measures: Sequence[str] = (), depth: int = 1000) -> Report:
    """Score BM25 on one split of a BEIR folder."""
    task = read_beir(folder, split)
    check_task(task)
    run = Bm25Index.build(read_passages(task.corpus_source)).search(task.queries, depth=depth)
    return evaluate_run(run, task.qrels, task=task.name, measures=measures or DEFAULT_MEASURES)


def score_retrieval(
    encoder: Encoder,
    folder: str | Path,
    split: str,
    *,
    name: str,
    measures: Sequence[str] = (),
    depth: int = 1000,
    store: VectorStore | Path | None = None,
) -> Report:
    """Score an encoder on one split of a BEIR folder.

    Args:
        encoder: The model.
        folder: The BEIR folder.
        split: Which judgements.
        name: Of the system in the report.
        measures: Empty = the usual ones.
        depth: Passages per query.
        store: The corpus as this encoder sees it; or the folder in which it is encoded, resumably. None = encode it
            into a temporary folder.
    """
    task = read_beir(folder, split)
    total = check_task(task)
    if isinstance(store, VectorStore):
        run = search(ExactIndex(store), encoder, task.queries, depth=depth, tag=name)
    else:
        scratch = nullcontext(str(store)) if store else tempfile.TemporaryDirectory(prefix="llama2vec-")
        with scratch as place:
            written = write_store(
                lambda: read_passages(task.corpus_source), encoder, Path(place) if store else Path(place) / "store",
                source={"corpus": task.corpus_source, "fingerprint": corpus_fingerprint(task.corpus_source)},
                shard_size=1024, total=total,
            )  # fmt: skip
            run = search(ExactIndex(written), encoder, task.queries, depth=depth, tag=name)
    report = evaluate_run(run, task.qrels, task=task.name, measures=measures or DEFAULT_MEASURES)
    return _with_settings(report, encoder)


def score_similarity(encoder: Encoder, file: str | Path, *, name: str) -> Report:
    """Score an encoder on sentence pairs: cosine against the people's scores."""
    file = Path(file)
    pairs = read_sentence_pairs(file)
    sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second)))
    row = {sentence: number for number, sentence in enumerate(sentences)}
    vectors = encoder.encode_queries(sentences)
    similarities = [float(vectors[row[pair.first]] @ vectors[row[pair.second]]) for pair in pairs]
    gold = [pair.score for pair in pairs]
    report = Report(
        task=f"sts/{file.stem}",
        system=name,
        metrics=score_similarities(similarities, gold),
        intervals={"spearman": bootstrap_spearman_interval(similarities, gold)},
        settings={"pairs": len(pairs)},
    )
    return _with_settings(report, encoder)


def _with_settings(report: Report, encoder: Encoder) -> Report:
    facts = {"contract_hash": encoder.contract_hash, "encoder": encoder.contract.encoder.model_dump()}
    where = {"versions": versions(), "machine": machine()}
    return dataclasses.replace(report, settings={**report.settings, **facts, **where})

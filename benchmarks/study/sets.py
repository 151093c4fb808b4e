"""The samples to search, and the score of a system on them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.study.protocol import Sets
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.tasks.beir import BeirTask, read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.manifest import digest
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Run
from llama2vec.retrieve.index.exact import best_rows
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.score.metrics import correlation_interval, evaluate_run, score_similarities

MEASURE = "nDCG@10"
_DECIMALS = 4

Embed = Callable[[list[str], bool], npt.NDArray[np.floating]]
"""(texts, are they queries) → [N, D] unit vectors."""


@dataclass(frozen=True)
class SampledSet:
    """A fixed part of a retrieval set.

    Attributes:
        task: Queries and their judgments, restricted to passages of the sample.
        passages: The passages to search.
    """

    task: BeirTask
    passages: list[Passage]

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the sample; ``queries`` is the order of every list of values."""
        judged = sorted(query for query, gains in self.task.qrels.items() if gains)
        texts = [[(row.id, row.text) for row in self.task.queries], [(row.id, row.full_text) for row in self.passages]]
        qrels = {query: dict(gains) for query, gains in self.task.qrels.items()}
        return {"queries": judged, "passages": len(self.passages), "fingerprint": digest([texts, qrels])}


def sampled_set(folder: Path, settings: Sets) -> SampledSet:
    """Draw the sample: some queries, some of the passages judged relevant to each, and other passages.

    Judgments of passages outside the sample are dropped. The draw is independent of the study's seeds, so every cell of
    a budget searches the same sample.
    """
    task = read_beir(folder)
    draw = random.Random(0)
    queries = draw.sample(task.queries, min(settings.max_queries or len(task.queries), len(task.queries)))
    wanted: set[str] = set()
    for query in queries:
        relevant = sorted(passage for passage, gain in task.qrels[query.id].items() if gain > 0)
        wanted |= set(draw.sample(relevant, min(settings.judged or len(relevant), len(relevant))))
    passages = list(read_passages(task.corpus_source))
    others = [passage for passage in passages if passage.id not in wanted]
    extra = draw.sample(others, min(settings.extra_passages or len(others), len(others)))
    chosen = {passage.id for passage in extra} | wanted
    qrels = {
        query.id: {passage: gain for passage, gain in task.qrels[query.id].items() if passage in chosen}
        for query in queries
    }
    sample = BeirTask(task.name, queries, qrels, task.corpus_source)
    return SampledSet(sample, [row for row in passages if row.id in chosen])


def score_set(sample: SampledSet, embed: Embed | None, depth: int) -> dict[str, Any]:
    """Search a sample and return nDCG@10, its interval and every query's value; without ``embed`` BM25 searches."""
    if embed is None:
        run = Bm25Index.build(sample.passages).search(sample.task.queries, depth=depth)
    else:
        rows = embed([passage.full_text for passage in sample.passages], False)
        asked = embed([query.text for query in sample.task.queries], True)
        run = dense_run(asked, rows, sample, depth)
    report = evaluate_run(run, sample.task.qrels, task=sample.task.name, metrics=[MEASURE])
    values = [round(report.per_query[MEASURE][query], _DECIMALS) for query in sample.facts["queries"]]
    return {MEASURE: report.metrics[MEASURE], "interval": list(report.intervals[MEASURE]), "values": values}


def dense_run(asked: npt.NDArray[np.floating], rows: npt.NDArray[np.floating], sample: SampledSet, depth: int) -> Run:
    """Rank a sample's passages by their vectors' products with the queries'; both in the sample's order."""
    ids = [passage.id for passage in sample.passages]
    results = {}
    for query, vector in zip(sample.task.queries, asked, strict=True):
        scores = rows @ vector
        results[query.id] = {ids[row]: float(scores[row]) for row in best_rows(scores, depth).tolist()}
    return Run(results)


def embedding(encoder: Encoder) -> Embed:
    """Return an encoder's vectors as the scores here ask for them."""
    return lambda texts, queries: encoder.encode_queries(texts) if queries else encoder.encode_passages(texts)


def score_pairs(path: Path, embed: Embed) -> dict[str, Any]:
    """Return how well cosines order sentence pairs as people did (Spearman), with its interval."""
    pairs = read_sentence_pairs(path)
    sentences = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    row = {text: place for place, text in enumerate(sentences)}
    vectors = embed(sentences, True)
    alike = [float(vectors[row[pair.first]] @ vectors[row[pair.second]]) for pair in pairs]
    gold = [pair.score for pair in pairs]
    interval = correlation_interval("spearman", alike, gold)
    return {"spearman": score_similarities(alike, gold)["spearman"], "interval": list(interval), "pairs": len(pairs)}

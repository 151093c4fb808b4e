"""The search task for validation during training: held-out queries, their passages and some others."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama2vec.data.beir import read_beir
from llama2vec.data.corpus import read_passages
from llama2vec.data.examples import read_examples
from llama2vec.data.sources import beir_file
from llama2vec.errors import EvaluationError
from llama2vec.finetune.settings import ValidationSettings
from llama2vec.model.encoder import Encoder
from llama2vec.records import Qrels, Run, TrainingExample
from llama2vec.score.metrics import evaluate_run
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_DEPTH = 10
_MEASURES = {"mrr@10": "MRR@10", "ndcg@10": "nDCG@10"}
BEST = "validation_ndcg@10"


@dataclass(frozen=True, slots=True)
class ValidationTask:
    """Queries, passages, and the judgments between them."""

    queries: list[str]  # Texts; a query's number is its id
    passages: list[str]  # Different texts; a passage's number is its id
    qrels: Qrels  # Query number → passage number → gain

    def score(self, encoder: Encoder) -> dict[str, float]:
        """Search every query and return ``mrr@10`` and ``ndcg@10``."""
        passages = encoder.encode_passages(self.passages)
        run = _search(encoder.encode_queries(self.queries), passages)
        metrics = evaluate_run(run, self.qrels, metrics=_MEASURES.values()).metrics
        return {name: metrics[measure] for name, measure in _MEASURES.items()}


def _search(queries: NDArray[np.float32], passages: NDArray[np.float32]) -> Run:
    results = {}
    for number, row in enumerate(queries @ passages.T):
        # Stable: equal scores keep the order of the passages.
        best = np.argsort(-row, kind="stable")[:_DEPTH]
        results[str(number)] = {str(column): float(row[column]) for column in best}
    return Run(results)


def hold_out(examples: Sequence[TrainingExample], share: float, most: int, seed: int) -> tuple[list[int], list[int]]:
    """Return row numbers for training, in order, and held-out ones; the same first positive keeps rows together."""
    wanted = min(most, round(len(examples) * share) or bool(share))
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        groups.setdefault(example.positives[0] if example.positives else "", []).append(row)
    order = list(groups.values())
    random.Random(f"{seed}:held out").shuffle(order)
    held_out: list[int] = []
    for group in order:
        if len(held_out) >= wanted:
            break
        # All queries of a widely shared positive stay in training.
        if len(held_out) + len(group) <= min(most, 2 * wanted):
            held_out += group
    chosen = set(held_out)
    return [row for row in range(len(examples)) if row not in chosen], held_out


def examples_task(
    held_out: Sequence[TrainingExample], others: Sequence[TrainingExample], settings: ValidationSettings, seed: int
) -> ValidationTask:
    """Make a search task from labeled examples: their positives, negatives, and some passages of other examples."""
    draw = random.Random(f"{seed}:validation")
    chosen = draw.sample(held_out, settings.max_queries) if len(held_out) > settings.max_queries else held_out
    if len(chosen) < len(held_out):
        whole = counted(len(held_out), "held-out query", "held-out queries")
        logger.info("the validation asks %d of %s (validation.max_queries)", len(chosen), whole)
    numbers: dict[str, int] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number, example in enumerate(chosen):
        positives = {numbers.setdefault(text, len(numbers)) for text in example.positives}
        qrels[str(number)] = {str(passage): 1 for passage in sorted(positives)}
        for text in example.negatives:
            numbers.setdefault(text, len(numbers))
    for row in draw.sample(range(len(others)), min(settings.extra_passages, len(others))):
        numbers.setdefault(others[row].positives[0], len(numbers))
    return ValidationTask([example.query for example in chosen], list(numbers), qrels)


def beir_validation(folder: str, settings: ValidationSettings, seed: int) -> ValidationTask:
    """Make a search task from a BEIR folder: the judged passages of some queries and a sample of the corpus."""
    task = read_beir(folder, settings.split)
    draw = random.Random(f"{seed}:validation")
    most = settings.max_queries
    queries = draw.sample(task.queries, most) if len(task.queries) > most else task.queries
    wanted = {passage_id for query in queries for passage_id in task.qrels[query.id]}
    judged: dict[str, str] = {}
    sample: list[str] = []
    for seen, passage in enumerate(read_passages(task.corpus_source)):
        if passage.id in wanted:
            judged[passage.id] = passage.full_text
        elif len(sample) < settings.extra_passages:
            sample.append(passage.full_text)
        elif (place := draw.randrange(seen + 1)) < settings.extra_passages:
            sample[place] = passage.full_text
    if not judged:
        raise EvaluationError(f"{folder}: no judged passage is in the corpus; take both from one release")
    if lost := len(wanted) - len(judged):
        answered = [query for query in queries if not task.qrels[query.id].keys().isdisjoint(judged)]
        bare = counted(len(queries) - len(answered), "query without any", "queries without any")
        logger.warning("%s: the corpus lacks %s; %s left out", folder, counted(lost, "judged passage"), bare)
        queries = answered
    numbers = {passage_id: str(number) for number, passage_id in enumerate(judged)}
    qrels = {
        str(number): {numbers[key]: gain for key, gain in task.qrels[query.id].items() if key in numbers}
        for number, query in enumerate(queries)
    }
    return ValidationTask([query.text for query in queries], [*judged.values(), *sample], qrels)


def read_validation(settings: ValidationSettings, others: Sequence[TrainingExample], seed: int) -> ValidationTask:
    """Read ``validation.source``."""
    source = Path(settings.source)
    if beir_file(source, "queries"):
        return beir_validation(settings.source, settings, seed)
    return examples_task(list(read_examples(settings.source, split=settings.source_split)), others, settings, seed)

"""The search task for validation during training: held-out queries, their passages and some others."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.sources import beir_file
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.beir import read_beir
from llama2vec.errors import EvaluationError
from llama2vec.finetune.batches import example_passages, positive_keys, query_keys
from llama2vec.finetune.contrastive_loss import NO_KEY
from llama2vec.finetune.settings import ValidationSettings
from llama2vec.model.encoder import Encoder
from llama2vec.processes import on_first_process
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


def wanted_rows(count: int, share: float, most: int) -> int:
    """Return how many of some rows to hold out.

    >>> wanted_rows(1000, 0.02, 100), wanted_rows(3, 0.02, 100), wanted_rows(3, 0.0, 100)
    (20, 1, 0)
    """
    return min(most, round(count * share) or int(share > 0 and count > 0))


def largest_group(wanted: int, most: int) -> int:
    """Return how many rows may be held out: all queries of a widely shared positive stay in training."""
    return min(most, 2 * wanted)


def place_in_draw(seed: int, query_key: int) -> bytes:
    """Return where a group stands in the order in which groups are held out, by the smallest key of its queries.

    Neither the place of its rows nor any row of other groups changes it: data that lost or gained a few rows give
    nearly the same held-out queries.
    """
    return hashlib.blake2b(f"{seed}:held out:{query_key}".encode(), digest_size=8).digest()


def first_groups(groups: Iterable[Sequence[int]], wanted: int, most: int) -> list[int]:
    """Return the rows of the first groups, as many as are wanted; a group that does not fit is passed over."""
    found: list[int] = []
    for group in groups:
        if len(found) >= wanted:
            break
        if len(found) + len(group) <= largest_group(wanted, most):
            found += group
    return found


def hold_out(
    examples: Sequence[TrainingExample],
    share: float,
    most: int,
    seed: int,
    sources: Sequence[int] | None = None,
    queries: Collection[int] | None = None,
) -> tuple[list[int], list[int]]:
    """Return row numbers for training, in order, and held-out ones.

    Rows that share a query, a positive's text or, within a source (``sources`` numbers them), the id of either stay
    together, also by way of others: no held-out query is trained on, and no passage that answers it is. The pairs of a
    passage of a corpus share its id. ``queries``, as :func:`held_out_queries` returns them, are held out instead of
    what the seed draws.
    """
    numbered = zip(examples, sources or repeat(0), strict=False)
    if queries is None:
        held_out = _drawn([row_keys(*one) for one in numbered], share, most, seed)
    else:
        held_out = [row for row, one in enumerate(numbered) if query_keys(*one)[0] in queries]
    chosen = set(held_out)
    return [row for row in range(len(examples)) if row not in chosen], held_out


def held_out_queries(rows: Iterable[tuple[TrainingExample, int]], share: float, most: int, seed: int) -> frozenset[int]:
    """Draw from all rows, each with the number of its source; return the keys of the held-out queries' texts.

    Trainings on different parts of these rows hold out the same queries, and the rows linked to them.
    """

    def drawn() -> frozenset[int]:
        keys = [row_keys(*one) for one in rows]
        return frozenset(keys[row][0] for row in _drawn(keys, share, most, seed))

    return on_first_process(drawn)


def row_keys(example: TrainingExample, source: int) -> tuple[int, ...]:
    """Return the keys of a row's query, that of its text first, and of its positives."""
    return (*query_keys(example, source), *positive_keys(example, source))


def _drawn(keys: Sequence[Sequence[int]], share: float, most: int, seed: int) -> list[int]:
    """Return the rows to hold out, given the keys of all."""
    if not (wanted := wanted_rows(len(keys), share, most)):
        return []
    groups = linked_groups(keys)
    groups.sort(key=lambda group: place_in_draw(seed, min(keys[row][0] for row in group)))
    return first_groups(groups, wanted, most)


def linked_groups(keys: Iterable[Iterable[int]]) -> list[list[int]]:
    """Return the rows in groups that share no key, in the order of their first rows; a key of 0 links nothing.

    >>> linked_groups([[1, 2], [3, 0], [4, 0], [2, 4]])
    [[0, 2, 3], [1]]
    """
    parents: list[int] = []
    first: dict[int, int] = {}

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    for row, own in enumerate(keys):
        parents.append(row)
        for key in own:
            if key != NO_KEY:
                low, high = sorted((root(first.setdefault(key, row)), root(row)))
                parents[high] = low
    groups: dict[int, list[int]] = {}
    for row in range(len(parents)):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


def examples_task(
    held_out: Sequence[TrainingExample],
    others: Sequence[TrainingExample],
    settings: ValidationSettings,
    seed: int,
    sources: Sequence[int] | None = None,
) -> ValidationTask:
    """Make a search task from labeled examples: their positives, negatives, and some passages of other examples.

    A passage answers a query if any held-out row with the same query has it as a positive, by its text or, within a
    source, by its id. Rows that share a query or a positive with a held-out row give no further passages.
    """
    draw = random.Random(f"{seed}:validation")
    numbered = list(zip(held_out, sources or [0] * len(held_out), strict=True))
    chosen = draw.sample(numbered, settings.max_queries) if len(numbered) > settings.max_queries else numbered
    if len(chosen) < len(held_out):
        whole = counted(len(held_out), "held-out query", "held-out queries")
        logger.info("the validation asks %d of %s (validation.max_queries)", len(chosen), whole)
    passages: dict[str, set[int]] = {}  # Text → its keys
    for example, source in chosen:
        for text, keys in example_passages(example, source):
            passages.setdefault(text, set()).update(keys)
    with_key: dict[int, list[int]] = {}
    for number, own in enumerate(passages.values()):
        for key in own:
            with_key.setdefault(key, []).append(number)
    answers: dict[int, set[int]] = {}
    for example, source in numbered:
        for asked in query_keys(example, source):
            answers.setdefault(asked, set()).update(positive_keys(example, source))
    qrels: dict[str, dict[str, int]] = {}
    for number, (example, source) in enumerate(chosen):
        known = set().union(*(answers[asked] for asked in query_keys(example, source))) - {NO_KEY}
        relevant = {passage for key in known for passage in with_key.get(key, ())}
        qrels[str(number)] = {str(passage): 1 for passage in sorted(relevant)}
    held = {key for example in held_out for key in _text_keys(example)}
    texts = dict.fromkeys(passages)
    for row in draw.sample(range(len(others)), min(settings.extra_passages, len(others))):
        if held.isdisjoint(_text_keys(others[row])):
            texts.setdefault(others[row].positives[0])
    return ValidationTask([example.query for example, _ in chosen], list(texts), qrels)


def _text_keys(example: TrainingExample) -> list[int]:
    """Return the keys of a row's query and positives without those of ids, which count within a source alone."""
    return [query_keys(example, 0)[0], *positive_keys(example, 0)[: len(example.positives)]]


def beir_validation(
    folder: str, settings: ValidationSettings, seed: int, reading: ReadingSettings | None = None
) -> ValidationTask:
    """Make a search task from a BEIR folder: the judged passages of some queries and a sample of the corpus."""
    task = read_beir(folder, settings.split, reading)
    draw = random.Random(f"{seed}:validation")
    most = settings.max_queries
    queries = draw.sample(task.queries, most) if len(task.queries) > most else task.queries
    wanted = {passage_id for query in queries for passage_id in task.qrels[query.id]}
    judged: dict[str, str] = {}
    sample: list[str] = []
    for seen, passage in enumerate(read_passages(task.corpus_source, settings=reading)):
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


def read_validation(
    settings: ValidationSettings,
    others: Sequence[TrainingExample],
    seed: int,
    reading: ReadingSettings | None = None,
) -> ValidationTask:
    """Read ``validation.source``; ``reading`` names the fields of a BEIR folder's rows."""
    source = Path(settings.source)
    if beir_file(source, "queries"):
        return beir_validation(settings.source, settings, seed, reading)
    rows = list(read_examples(settings.source, split=settings.source_split, reading=reading))
    return examples_task(rows, others, settings, seed)

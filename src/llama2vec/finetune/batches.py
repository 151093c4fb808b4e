"""Labeled examples → batches: what an epoch draws from each row, which rows share a batch, what the loss must know."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from llama2vec.data.text_key import text_key
from llama2vec.errors import ExampleFormatError, TrainingError
from llama2vec.finetune.contrastive_loss import NO_COLUMN, NO_KEY, Labels, known_answers
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.records import TrainingExample
from llama2vec.training.order import EpochOrder

logger = logging.getLogger(__name__)

_MOST_LOOKS = 8


def _text_key(text: str) -> int:
    return _key("text", text_key(text))


def _key(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # 63 bits: torch compares signed numbers. 0 stands for "none".
    return int.from_bytes(digest, "big") >> 1 or 1


def _id_key(source: int, passage_id: str) -> int:
    return _key("id", str(source), passage_id) if passage_id else NO_KEY


@dataclass(frozen=True, slots=True)
class DrawnExample:
    """What one epoch takes from a row.

    Attributes:
        query: The query's text.
        passages: Positives, then hard negatives.
        positive_count: How many of them are positives.
        passage_keys: Per passage the keys of its text and its id; 0 = none.
        answer_keys: Keys of all that is known to answer the query, in any row.
        teacher_scores: One for each passage, or none at all.
    """

    query: str
    passages: tuple[str, ...]
    positive_count: int
    passage_keys: tuple[tuple[int, int], ...]
    answer_keys: tuple[int, ...]
    teacher_scores: tuple[float, ...]


class DrawnExamples(Sequence[DrawnExample]):
    """Rows of training data, drawn anew in each epoch.

    Index ``epoch * len + row`` gives what (seed, epoch, row) draws: a run that resumes anywhere draws the same.

    Args:
        examples: The rows.
        sources: Which source each row is from; passage ids count within their source. None = all from one.
        settings: How many positives and negatives.
        seed: Of the draw.
    """

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        sources: Sequence[int] | None,
        settings: ContrastiveSettings,
        seed: int,
    ) -> None:
        self.examples, self.sources = examples, sources or [0] * len(examples)
        self._settings, self._seed = settings, seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        epoch, row = divmod(index, len(self.examples))
        example, source = self.examples[row], self.sources[row]
        draw = random.Random(f"{self._seed}:{epoch}:{row}")
        positives = _choose(draw, len(example.positives), self._settings.positives)
        negatives = _choose(draw, len(example.negatives), self._settings.negatives)
        chosen = [(example.positives[number], _at(example.positive_ids, number)) for number in positives]
        chosen += [(example.negatives[number], _at(example.negative_ids, number)) for number in negatives]
        scores: tuple[float, ...] = ()
        if example.positive_scores and (example.negative_scores or not negatives):
            scores = tuple(example.positive_scores[number] for number in positives)
            scores += tuple(example.negative_scores[number] for number in negatives)
        return DrawnExample(
            query=example.query,
            passages=tuple(text for text, _ in chosen),
            positive_count=len(positives),
            passage_keys=tuple((_text_key(text), _id_key(source, passage_id)) for text, passage_id in chosen),
            answer_keys=tuple(sorted(set().union(*(self._answers[key] for key in self._query_keys(row))))),
            teacher_scores=scores,
        )

    def conflicts(self, row: int) -> frozenset[int]:
        """Return keys of a row's query and positives: rows that share one should not share a batch."""
        return frozenset((*self._query_keys(row), *self._positive_keys(row)))

    def _query_keys(self, row: int) -> tuple[int, ...]:
        example = self.examples[row]
        by_text = _key("query", " ".join(example.query.split()))
        return (by_text, _key("query id", str(self.sources[row]), example.query_id)) if example.query_id else (by_text,)

    def _positive_keys(self, row: int) -> tuple[int, ...]:
        example = self.examples[row]
        by_id = (_id_key(self.sources[row], passage_id) for passage_id in example.positive_ids)
        return (*map(_text_key, example.positives), *by_id)

    @cached_property
    def _answers(self) -> dict[int, tuple[int, ...]]:
        """Query key → keys of its positives in all rows that ask the same."""
        found: dict[int, tuple[int, ...]] = {}
        for row in range(len(self.examples)):
            keys = self._positive_keys(row)
            for query_key in self._query_keys(row):
                found[query_key] = found[query_key] + keys if query_key in found else keys
        return found


def check_examples(examples: Sequence[TrainingExample], settings: ContrastiveSettings) -> None:
    """Make sure that every row can serve; say once how many have fewer negatives than asked.

    Raises:
        ExampleFormatError: A row without a positive, or with a passage that is both.
        TrainingError: Fewer negatives than asked under ``missing_negatives = "error"``, or no teacher scores where
            distillation is on.
    """
    asked, short, without, scored = settings.negatives, 0, 0, 0
    for row, example in enumerate(examples):
        where = f"example {row + 1} ({example.query[:60]!r})"
        if not example.positives:
            raise ExampleFormatError(f"{where} has no positive; give each query a passage that answers it")
        both = set(example.positives) & set(example.negatives)
        if both:
            raise ExampleFormatError(f"{where} has {min(both)[:60]!r} as positive and as negative; remove one")
        short += len(example.negatives) < asked
        without += not example.negatives
        scored += bool(example.positive_scores)
    if short:
        counts = f"{short:,} of {len(examples):,} queries have fewer than {asked} hard negatives ({without:,} none)"
        if settings.missing_negatives == "error":
            raise TrainingError(
                f"{counts}; mine more, lower contrastive.negatives, or set contrastive.missing_negatives to fill"
            )
        logger.warning("%s: the other passages of their batch must do", counts)
    if settings.distillation_weight and examples and not scored:
        raise TrainingError(
            "contrastive.distillation_weight is set, but no example has pos_scores and neg_scores; "
            "add a teacher's scores or set it to 0"
        )


def _choose(draw: random.Random, count: int, wanted: int) -> list[int]:
    return draw.sample(range(count), min(count, wanted))


def _at(ids: Sequence[str], number: int) -> str:
    return ids[number] if ids else ""


class ContrastiveOrder(EpochOrder):
    """Draw the batches of an epoch at random, without two rows of one query or positive in a batch where avoidable.

    Batches are not made of texts of like length, as in adaptation: every text serves as a negative to the others, and
    a query could tell them apart by their length. Micro-batches are sorted instead.

    Args:
        examples: The rows.
        batch_size: Rows a step, all processes together.
        seed: Of the order.
        homogeneous: Fill each batch from one source.
    """

    def __init__(self, examples: DrawnExamples, batch_size: int, seed: int, *, homogeneous: bool = False) -> None:
        super().__init__(seed)
        self._count, self._batch_size = len(examples), batch_size
        self._conflicts = [examples.conflicts(row) for row in range(len(examples))]
        self._groups: list[list[int]] = [list(range(len(examples)))]
        if homogeneous:
            by_source: dict[int, list[int]] = {}
            for row, source in enumerate(examples.sources):
                by_source.setdefault(source, []).append(row)
            self._groups = list(by_source.values())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        draw = self._draw()
        batches: list[list[int]] = []
        rest: list[int] = []
        for group in self._groups:
            rows = list(group)
            draw.shuffle(rows)
            found = spread(rows, self._conflicts, self._batch_size)
            if found and len(found[-1]) < self._batch_size:
                rest += found.pop()
            batches += found
        draw.shuffle(batches)
        # A shorter last batch stays last, where drop_last leaves it out.
        batches += spread(rest, self._conflicts, self._batch_size)
        first = self._epoch * self._count
        for batch in batches:
            yield from (first + row for row in batch)


def spread(rows: Sequence[int], conflicts: Sequence[Collection[int]], batch_size: int) -> list[list[int]]:
    """Cut rows into batches in their order, but let a row wait whose keys are in the batch already.

    Only at the end, when nothing else is left, do conflicting rows share a batch.

    >>> spread([0, 1, 2, 3], [{7}, {7}, {8}, {9}], 2)
    [[0, 2], [1, 3]]
    """
    waiting: deque[int] = deque()
    stream = iter(rows)
    batches: list[list[int]] = []
    left = len(rows)
    while left:
        batch: list[int] = []
        taken: set[int] = set()
        # Bounded, so that a positive which half of the rows share does not make this quadratic.
        before = (waiting.popleft() for _ in range(min(len(waiting), _MOST_LOOKS * batch_size)))
        for row in chain(before, stream):
            if taken.isdisjoint(conflicts[row]):
                batch.append(row)
                taken.update(conflicts[row])
            else:
                waiting.append(row)
            if len(batch) == batch_size:
                break
        while waiting and len(batch) < batch_size:
            batch.append(waiting.popleft())
        batches.append(batch)
        left -= len(batch)
    return batches


@dataclass(frozen=True, slots=True)
class ContrastiveBatch:
    """One batch of one process.

    Attributes:
        sequences: U different prompted texts, as token ids; a text that stands several times is read once.
        query_rows: [Q] which of them is the query.
        passage_rows: [N] which of them is the passage.
        positives: [Q, K] columns among the N passages; -1 = none.
        own: [Q, C] columns of the passages that a teacher has scored; -1 = none.
        teacher_scores: [Q, C].
        answer_keys: [Q, A] keys of each query's known answers; 0 = none.
        passage_keys: [N, 2] keys of each passage's text and id; 0 = none.
    """

    sequences: list[list[int]]
    query_rows: Tensor
    passage_rows: Tensor
    positives: Tensor
    own: Tensor
    teacher_scores: Tensor
    answer_keys: Tensor
    passage_keys: Tensor

    def labels(self, passage_keys: Tensor, first_column: int, device: torch.device) -> Labels:
        """Return what is known about the passages of all processes.

        Args:
            passage_keys: [N, 2] keys of all passages.
            first_column: Where this process' passages begin among them.
            device: Of the result.
        """

        def shifted(columns: Tensor) -> Tensor:
            return torch.where(columns >= 0, columns + first_column, columns).to(device)

        answers = known_answers(self.answer_keys.to(device), passage_keys.to(device))
        return Labels(shifted(self.positives), answers, shifted(self.own), self.teacher_scores.to(device))


def contrastive_batch(
    examples: Sequence[DrawnExample], query_ids: Sequence[list[int]], passage_ids: Sequence[list[int]]
) -> ContrastiveBatch:
    """Lay out drawn examples.

    Args:
        examples: Q rows.
        query_ids: Prompted token ids of each query.
        passage_ids: Prompted token ids of all passages, row by row.
    """
    places: dict[tuple[int, ...], int] = {}
    rows = [places.setdefault(tuple(ids), len(places)) for ids in (*query_ids, *passage_ids)]
    starts = [0]
    for example in examples:
        starts.append(starts[-1] + len(example.passages))
    positives = [list(range(start, start + row.positive_count)) for start, row in zip(starts, examples, strict=False)]
    own = [list(range(start, start + len(row.teacher_scores))) for start, row in zip(starts, examples, strict=False)]
    return ContrastiveBatch(
        sequences=[list(ids) for ids in places],
        query_rows=torch.tensor(rows[: len(query_ids)]),
        passage_rows=torch.tensor(rows[len(query_ids) :]),
        positives=_padded(positives, NO_COLUMN),
        own=_padded(own, NO_COLUMN),
        teacher_scores=_padded([row.teacher_scores for row in examples], 0.0),
        answer_keys=_padded([row.answer_keys for row in examples], NO_KEY),
        passage_keys=torch.tensor([keys for row in examples for keys in row.passage_keys]),
    )


def _padded(rows: Sequence[Sequence[int] | Sequence[float]], fill: float) -> Tensor:
    width = max((len(row) for row in rows), default=0) or 1
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

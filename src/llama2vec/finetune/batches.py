"""Labeled examples → batches: the draws of an epoch, the rows of each batch, and the labels for the loss."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, repeat
from typing import Any

import torch
from torch import Tensor

from llama2vec.data.examples.spool import Spool, buffers
from llama2vec.data.text.words import text_key
from llama2vec.errors import ExampleFormatError, TrainingError
from llama2vec.finetune.contrastive_loss import NO_COLUMN, NO_KEY, Labels, known_answers
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.records import TrainingExample
from llama2vec.terminal import counted
from llama2vec.training.orders import EpochOrder

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


def query_keys(example: TrainingExample, source: int) -> tuple[int, ...]:
    """Return the keys by which rows with the same query are found: of its text, and of its id within a source.

    As with positives, texts that differ only in case, white space or Unicode form are the same.
    """
    by_text = _key("query", text_key(example.query))
    return (by_text, _key("query id", str(source), example.query_id)) if example.query_id else (by_text,)


def positive_keys(example: TrainingExample, source: int) -> tuple[int, ...]:
    """Return the keys of a row's positives: of their texts, and of their ids within a source."""
    by_id = (_id_key(source, passage_id) for passage_id in example.positive_ids)
    return (*map(_text_key, example.positives), *by_id)


def example_passages(example: TrainingExample, source: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the text of each positive and negative with the keys of text and id; 0 = no id."""
    for texts, ids in (
        (example.positives, example.positive_ids),
        (example.negatives, example.negative_ids),
    ):
        for text, passage_id in zip(texts, ids or repeat(""), strict=False):
            yield text, (_text_key(text), _id_key(source, passage_id))


@dataclass(frozen=True, slots=True)
class DrawnExample:
    """The draw of one epoch from a row."""

    query: str  # The query's text
    passages: tuple[str, ...]  # Positives, then hard negatives
    positive_count: int  # Number of positives among them
    passage_keys: tuple[tuple[int, int], ...]  # The keys of each passage's text and id; 0 = none
    answer_keys: tuple[int, ...]  # Keys of all known answers to the query, from any row
    teacher_scores: tuple[float, ...]  # One per passage; empty without a teacher


class DrawnExamples(Sequence[DrawnExample]):
    """Rows of training data, drawn again in each epoch.

    Index ``epoch * len + row`` gives the draw of (seed, epoch, row), so a resumed run draws the same. Passage ids are
    unique within a source; ``sources`` names each row's (None: a single one).
    """

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        sources: Sequence[int] | None,
        settings: ContrastiveSettings,
        seed: int,
    ) -> None:
        self.examples, self.sources = examples, sources if sources is not None else [0] * len(examples)
        self._settings, self._seed = settings, seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        epoch, row = divmod(index, len(self.examples))
        example, source = self.examples[row], self.sources[row]
        draw = random.Random(f"{self._seed}:{epoch}:{row}")
        chosen, counts = [], []
        for texts, ids, scores, wanted in (
            (example.positives, example.positive_ids, example.positive_scores, self._settings.positives),
            (example.negatives, example.negative_ids, example.negative_scores, self._settings.negatives),
        ):
            numbers = draw.sample(range(len(texts)), min(len(texts), wanted))
            counts.append(len(numbers))
            chosen += [(texts[at], ids[at] if ids else "", scores[at] if scores else None) for at in numbers]
        teacher = [score for *_, score in chosen if score is not None]
        return DrawnExample(
            query=example.query,
            passages=tuple(text for text, *_ in chosen),
            positive_count=counts[0],
            passage_keys=tuple((_text_key(text), _id_key(source, passage_id)) for text, passage_id, _ in chosen),
            answer_keys=tuple(sorted(set().union(*(self._known(key) for key in query_keys(example, source))))),
            teacher_scores=tuple(teacher) if len(teacher) == len(chosen) else (),
        )

    def _known(self, query_key: int) -> tuple[int, ...]:
        """Return the keys of the positives of a query in all rows."""
        return self.examples.answers(query_key) if isinstance(self.examples, Spool) else self._answers[query_key]

    def conflicts(self, row: int) -> tuple[int, ...]:
        """Return the keys of a row's query and positives; rows that share a key should not share a batch."""
        if isinstance(self.examples, Spool):
            return self.examples.keys(row, row + 1)[0]
        return (*self._query_keys(row), *self._positive_keys(row))

    def _query_keys(self, row: int) -> tuple[int, ...]:
        return query_keys(self.examples[row], self.sources[row])

    def _positive_keys(self, row: int) -> tuple[int, ...]:
        return positive_keys(self.examples[row], self.sources[row])

    @cached_property
    def _answers(self) -> dict[int, tuple[int, ...]]:
        """Map each query's key to the keys of its positives in all rows with that query."""
        found: dict[int, tuple[int, ...]] = {}
        for row in range(len(self.examples)):
            keys = self._positive_keys(row)
            for query_key in self._query_keys(row):
                found[query_key] = found[query_key] + keys if query_key in found else keys
        return found


def checked_examples(
    rows: Iterable[tuple[TrainingExample, int]], settings: ContrastiveSettings
) -> Iterator[tuple[TrainingExample, int]]:
    """Yield examples, each with the number of its source, as long as they can be trained on; log missing negatives.

    Raises:
        ExampleFormatError: A row cannot be trained on.
        TrainingError: After the last row, where all together lack what the settings need.
    """
    asked, count, short, without, unused = settings.negatives, 0, 0, 0, 0
    scored = compared = 0
    for count, (example, source) in enumerate(rows, start=1):
        if not example.positives:
            raise ExampleFormatError(
                f"{_named(count, example)} has no positive; give each query a passage that answers it"
            )
        if not set(example.positives).isdisjoint(example.negatives):
            both = min(set(example.positives) & set(example.negatives))[:60]
            raise ExampleFormatError(f"{_named(count, example)} has {both!r} as both positive and negative; remove one")
        short += len(example.negatives) < asked
        without += not example.negatives
        unused += bool(example.negatives) and not asked
        scored += bool(example.positive_scores)
        judged = len(example.positive_scores), len(example.negative_scores)
        compared += bool(example.positive_scores) and settings.compared_by_teacher(*judged)
        yield example, source
    if unused:
        logger.warning(
            "contrastive.negatives is 0: the hard negatives of %s of %s are not used; set it above 0 to train on them",
            f"{unused:,}", counted(count, "query", "queries"),
        )  # fmt: skip
    if short:
        hard = counted(asked, "hard negative")
        counts = f"fewer than {hard} for {short:,} of {counted(count, 'query', 'queries')} ({without:,} none)"
        if settings.missing_negatives == "error":
            raise TrainingError(
                f"{counts}; mine more, lower contrastive.negatives, or set contrastive.missing_negatives to fill"
            )
        logger.warning("%s; using the other passages of the batch as negatives", counts)
    if count:
        _check_teacher(settings, scored, compared)
        if compared and compared < count:
            logger.warning(
                "%s of %s have no scores to learn from; give them pos_scores and neg_scores (mine --teacher)",
                f"{count - compared:,}", counted(count, "query", "queries"),
            )  # fmt: skip


def _check_teacher(settings: ContrastiveSettings, scored: int, compared: int) -> None:
    """Raise a TrainingError where a teacher's scores are to be learned from and teach nothing.

    Args:
        settings: What is learned.
        scored: Number of examples with scores.
        compared: Number of those whose scores compare passages that are drawn.
    """
    uses = {
        "distillation_weight is set": (settings.distillation_weight, "set it to 0"),
        "false_negatives is teacher": (settings.false_negatives == "teacher", "choose self or start"),
    }
    for use, (is_used, otherwise) in uses.items():
        if is_used and not scored:
            raise TrainingError(
                f"contrastive.{use}, but no example has pos_scores and neg_scores; "
                f"add a teacher's scores (mine --teacher) or {otherwise}"
            )
        if is_used and not compared:
            raise TrainingError(
                f"contrastive.{use}, but no example with pos_scores has a hard negative with a score; "
                f"mine negatives with a teacher (mine --teacher) or {otherwise}"
            )


def _named(number: int, example: TrainingExample) -> str:
    return f"example {number} ({example.query[:60]!r})"


class ContrastiveOrder(EpochOrder):
    """Draw the batches of an epoch at random; rows with the same query or positive get different batches if possible.

    Unlike in adaptation, batches do not group texts of similar length: every text is a negative for the others, and
    length must not give the answer away. Micro-batches are sorted by length instead. ``homogeneous`` fills each batch
    from one source.
    """

    def __init__(self, examples: DrawnExamples, batch_size: int, seed: int, *, homogeneous: bool = False) -> None:
        super().__init__(seed)
        self._count, self._batch_size, self._examples = len(examples), batch_size, examples
        if isinstance(examples.examples, Spool):
            return
        self._conflicts = [examples.conflicts(row) for row in range(len(examples))]
        groups: dict[int, list[int]] = {}
        for row, source in enumerate(examples.sources):
            groups.setdefault(source if homogeneous else 0, []).append(row)
        self._groups = list(groups.values())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        draw = self._draw()
        if isinstance(self._examples.examples, Spool):
            yield from self._buffered(draw)
            return
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
        # A shorter last batch stays last, where drop_last drops it.
        batches += spread(rest, self._conflicts, self._batch_size)
        first = self._epoch * self._count
        for batch in batches:
            yield from (first + row for row in batch)

    def _buffered(self, draw: random.Random) -> Iterator[int]:
        """Yield rows that lie on the disk, one shuffle buffer at a time; rows that fill no batch wait for the next."""
        spool = self._examples.examples
        assert isinstance(spool, Spool)
        first, rest, keys = self._epoch * self._count, list[int](), dict[int, tuple[int, ...]]()
        for chunks in buffers(self._count, draw):
            keys = {row: keys[row] for row in rest}
            for chunk in chunks:
                keys.update(zip(chunk, spool.keys(chunk.start, chunk.stop), strict=True))
            rows = [*rest, *(row for chunk in chunks for row in chunk)]
            draw.shuffle(rows)
            batches = spread(rows, keys, self._batch_size)
            rest = batches.pop() if len(batches[-1]) < self._batch_size else []
            for batch in batches:
                yield from (first + row for row in batch)
        yield from (first + row for row in rest)


def spread(
    rows: Sequence[int], conflicts: Sequence[Collection[int]] | Mapping[int, Collection[int]], batch_size: int
) -> list[list[int]]:
    """Cut rows into batches in order; rows that share a key share a batch only when no other rows remain.

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
        # Bounded, so that a positive shared by half of the rows does not make this quadratic.
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
    """One batch of one process."""

    sequences: list[list[int]]  # U distinct prompted texts as token ids; a repeated text is read once
    query_rows: Tensor  # [Q] index of each query among them
    passage_rows: Tensor  # [N] index of each passage among them
    positives: Tensor  # [Q, K] columns among the N passages; -1 = none
    own: Tensor  # [Q, C] columns of the passages that a teacher has scored; -1 = none
    teacher_scores: Tensor  # [Q, C]
    answer_keys: Tensor  # [Q, A] keys of each query's known answers; 0 = none
    passage_keys: Tensor  # [N, 2] keys of each passage's text and id; 0 = none
    bags: Sequence[tuple[int, ...]] = ()  # [Q + N] tokens that queries and passages must predict (EBAE); () = none

    def labels(self, passage_keys: Tensor, first_column: int, device: torch.device) -> Labels:
        """Return the labels of the passages [N] of all processes; those of this one begin at ``first_column``."""

        def shifted(columns: Tensor) -> Tensor:
            return torch.where(columns >= 0, columns + first_column, columns).to(device)

        answers = known_answers(self.answer_keys.to(device), passage_keys.to(device))
        return Labels(shifted(self.positives), answers, shifted(self.own), self.teacher_scores.to(device))


def contrastive_batch(
    examples: Sequence[DrawnExample],
    query_ids: Sequence[list[int]],
    passage_ids: Sequence[list[int]],
    bags: Sequence[tuple[int, ...]] = (),
) -> ContrastiveBatch:
    """Lay out Q drawn examples, given the prompted token ids of their queries and, row by row, of their passages.

    ``bags`` holds what each query and then each passage must predict.
    """
    places: dict[tuple[int, ...], int] = {}
    rows = [places.setdefault(tuple(ids), len(places)) for ids in (*query_ids, *passage_ids)]
    starts = [0, *accumulate(len(example.passages) for example in examples)]
    placed = list(zip(starts, examples, strict=False))
    positives = [list(range(start, start + row.positive_count)) for start, row in placed]
    own = [list(range(start, start + len(row.teacher_scores))) for start, row in placed]
    return ContrastiveBatch(
        sequences=[list(ids) for ids in places],
        query_rows=torch.tensor(rows[: len(query_ids)]),
        passage_rows=torch.tensor(rows[len(query_ids) :]),
        positives=_padded(positives, NO_COLUMN),
        own=_padded(own, NO_COLUMN),
        teacher_scores=_padded([row.teacher_scores for row in examples], 0.0),
        answer_keys=_padded([row.answer_keys for row in examples], NO_KEY),
        passage_keys=torch.tensor([keys for row in examples for keys in row.passage_keys]),
        bags=bags,
    )


def _padded(rows: Sequence[Sequence[int] | Sequence[float]], fill: float) -> Tensor:
    width = max((len(row) for row in rows), default=0) or 1
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

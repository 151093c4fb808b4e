"""Labeled examples on the disk: written once for all processes, with the keys of each query's known answers."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama2vec.data.examples.spool import LinkedRows, Spool, SpooledRow, write_spool
from llama2vec.finetune.batches import positive_keys, query_keys
from llama2vec.finetune.contrastive_loss import NO_KEY
from llama2vec.finetune.validation import largest_group, wanted_rows
from llama2vec.processes import on_first_process
from llama2vec.records import TrainingExample

_MOST_LOOKS = 20  # Rows that are drawn for each one wanted, because those of a group that is too large stay


def spooled_examples(
    path: Path, rows: Iterable[tuple[TrainingExample, int]], *, share: float, most_held_out: int, seed: int
) -> tuple[Spool[TrainingExample], list[tuple[TrainingExample, int]]]:
    """Write examples, each with the number of its source; return those that stay, and those held out.

    These are drawn from all rows by the seed, in groups as :func:`llama2vec.finetune.validation.hold_out` has them; a
    row of a larger group is drawn more often.
    """

    def chosen(rows: LinkedRows) -> list[int]:
        wanted, held_out = wanted_rows(len(rows), share, most_held_out), list[int]()
        looks = random.Random(f"{seed}:held out").sample(range(len(rows)), min(len(rows), _MOST_LOOKS * wanted))
        for row in looks:
            if len(held_out) >= wanted:
                break
            if row not in held_out:
                held_out += rows.group(row, largest_group(wanted, most_held_out) - len(held_out))
        return held_out

    def write() -> list[tuple[TrainingExample, int]]:
        taken = write_spool(path, map(_spooled, rows), chosen if share else None)
        return [(_example(list(row.texts), row.rest), row.size) for row in taken]

    found = on_first_process(write)
    return Spool(path, _example), found


def _spooled(numbered: tuple[TrainingExample, int]) -> SpooledRow:
    example, source = numbered
    # Without the key of a missing id, which would link rows that have nothing in common.
    answers = [key for key in positive_keys(example, source) if key != NO_KEY]
    return SpooledRow(*_as_row(example), source, query_keys(example, source), answers)


def _as_row(example: TrainingExample) -> tuple[list[str], list[Any]]:
    """Return the texts of an example, and everything else of it."""
    scores, ids = (example.positive_scores, example.negative_scores), (example.positive_ids, example.negative_ids)
    texts = [example.query, *example.positives, *example.negatives]
    return texts, [len(example.positives), *scores, example.query_id, *ids]


def _example(texts: list[str], rest: list[Any]) -> TrainingExample:
    positives, positive_scores, negative_scores, query_id, positive_ids, negative_ids = rest
    return TrainingExample(
        texts[0], tuple(texts[1 : 1 + positives]), tuple(texts[1 + positives :]), tuple(positive_scores),
        tuple(negative_scores), query_id, tuple(positive_ids), tuple(negative_ids),
    )  # fmt: skip

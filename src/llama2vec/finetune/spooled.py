"""Labeled examples on the disk: written once for all processes, with the keys of each query's known answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llama2vec.data.spool import Spool, SpooledRow, write_spool
from llama2vec.finetune.batches import positive_keys, query_keys
from llama2vec.processes import on_first_process
from llama2vec.records import TrainingExample


def spooled_examples(
    path: Path, rows: Iterable[tuple[TrainingExample, int]], *, share: float, most_held_out: int
) -> tuple[Spool[TrainingExample], list[TrainingExample]]:
    """Write examples, each with the number of its source, and return them and those held out.

    An example is held out by the hash of its first positive, so that all queries of a positive stay together: a share
    of them, at most about ``most_held_out``.
    """
    held_out: list[TrainingExample] = []
    of_held_out: set[int] = set()

    def kept() -> Iterator[SpooledRow]:
        for example, source in rows:
            keys = positive_keys(example, source)
            key = keys[0] if keys else 0
            if key in of_held_out or (key / 2**63 < share and len(held_out) < most_held_out and keys):
                held_out.append(example)
                of_held_out.add(key)
            else:
                yield SpooledRow(*_as_row(example), source, query_keys(example, source), keys)

    def write() -> list[TrainingExample]:
        write_spool(path, kept())
        return held_out

    found = on_first_process(write)
    return Spool(path, _example), found


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

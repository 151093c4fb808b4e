"""Labeled examples on the disk: written once for all processes, with the keys of each query's known answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llama2vec.data.examples.spool import LinkedRows, Spool, SpooledRow, write_spool
from llama2vec.finetune.batches import positive_keys, query_keys
from llama2vec.finetune.contrastive_loss import NO_KEY
from llama2vec.finetune.validation import first_groups, largest_group, place_in_draw, wanted_rows
from llama2vec.processes import on_first_process
from llama2vec.records import TrainingExample

_MOST_LOOKS = 20  # Queries that are looked at for each row wanted, because those of a group that is too large stay


def spooled_examples(
    path: Path,
    rows: Iterable[tuple[TrainingExample, int]],
    *,
    share: float,
    most_held_out: int,
    seed: int,
    queries: Collection[int] | None = None,
) -> tuple[Spool[TrainingExample], list[tuple[TrainingExample, int]]]:
    """Write examples, each with the number of its source; return those that stay, and those held out.

    These are the ones that :func:`llama2vec.finetune.validation.hold_out` takes, unless nearly all queries belong to
    groups that are too large: then the search for others ends early.
    """

    def chosen(rows: LinkedRows) -> list[int]:
        if queries is not None:
            return sorted(row for key in queries for row in rows.with_key(key))
        return _drawn(rows, share, most_held_out, seed)

    def write() -> list[tuple[TrainingExample, int]]:
        taken = write_spool(path, map(_spooled, rows), chosen if share else None)
        return [(_example(list(row.texts), row.rest), row.size) for row in taken]

    found = on_first_process(write)
    return Spool(path, _example), found


def spooled_queries(
    path: Path, rows: Iterable[tuple[TrainingExample, int]], *, share: float, most_held_out: int, seed: int
) -> frozenset[int]:
    """Draw as :func:`llama2vec.finetune.validation.held_out_queries` does, with the keys of the rows on the disk.

    ``path`` names a file that is gone afterwards. As in :func:`spooled_examples`, the search for others ends early
    where nearly all queries belong to groups that are too large.
    """

    def write() -> frozenset[int]:
        found = set[int]()

        def keyed(numbered: tuple[TrainingExample, int]) -> SpooledRow:
            # Every key as one of the query: the draw asks for no answers, so their table stays empty.
            return SpooledRow((), query_keys=[*query_keys(*numbered), *_answers(*numbered)])

        def note(rows: LinkedRows) -> list[int]:
            found.update(map(rows.first_key, _drawn(rows, share, most_held_out, seed)))
            return []  # Nothing is taken out: the keys are enough

        write_spool(path, map(keyed, rows), note)
        path.unlink()
        return frozenset(found)

    return on_first_process(write)


def _drawn(rows: LinkedRows, share: float, most: int, seed: int) -> list[int]:
    """Return the rows to hold out."""

    def groups() -> Iterator[list[int]]:
        for row in islice(rows.by_first_key(partial(place_in_draw, seed)), _MOST_LOOKS * wanted):
            group = rows.group(row, largest_group(wanted, most))
            # A group of several queries comes once, where the smallest of their keys stands.
            if group and rows.first_key(row) == min(map(rows.first_key, group)):
                yield group

    wanted = wanted_rows(len(rows), share, most)
    return first_groups(groups(), wanted, most)


def _spooled(numbered: tuple[TrainingExample, int]) -> SpooledRow:
    example, source = numbered
    return SpooledRow(*_as_row(example), source, query_keys(example, source), _answers(example, source))


def _answers(example: TrainingExample, source: int) -> list[int]:
    """Return the keys of the positives, without that of a missing id, which would link rows without a common text."""
    return [key for key in positive_keys(example, source) if key != NO_KEY]


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

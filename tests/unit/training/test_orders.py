"""Texts of similar length share a batch, and every row comes once an epoch, from memory and from the disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llama2vec.data.examples.spool import Spool, SpooledRow, write_spool
from llama2vec.training.orders import LengthGroupedOrder, SpooledOrder


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (7, 3), (64, 8), (300, 4), (5, 5)])
def test_the_order_of_an_epoch_is_a_permutation(count: int, batch_size: int) -> None:
    draw = random.Random(count)
    order = LengthGroupedOrder([draw.randint(1, 99) for _ in range(count)], batch_size, seed=0)
    assert len(order) == count
    assert sorted(order) == list(range(count))


def test_the_order_is_fixed_by_seed_and_epoch() -> None:
    lengths = [number % 13 for number in range(100)]

    def order(seed: int, epoch: int) -> list[int]:
        made = LengthGroupedOrder(lengths, 4, seed)
        made.set_epoch(epoch)
        return list(made)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    made = LengthGroupedOrder(lengths, 4, 0)
    assert list(made) == list(made) == order(0, 0)


def test_texts_of_like_length_share_a_batch_and_batches_are_shuffled() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(1, 100) for _ in range(128)]
    rows = list(LengthGroupedOrder(lengths, 4, 0))
    batches = [[lengths[row] for row in rows[start : start + 4]] for start in range(0, 128, 4)]
    assert max(max(batch) - min(batch) for batch in batches) <= 12
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)


def test_a_shorter_last_batch_stays_last() -> None:
    lengths = list(range(10))
    for seed in range(5):
        assert sorted(list(LengthGroupedOrder(lengths, 4, seed))[-2:]) == [8, 9]


def test_rows_on_the_disk_share_batches_of_similar_length_and_come_once_an_epoch(tmp_path: Path) -> None:
    draw = random.Random(0)
    sizes = [draw.randrange(1, 500) for _ in range(1000)]
    write_spool(tmp_path / "rows.sqlite", (SpooledRow([], row, size) for row, size in enumerate(sizes)))
    order = SpooledOrder(Spool(tmp_path / "rows.sqlite", lambda _, row: int(row)), 8, seed=0)
    found = list(order)
    assert sorted(found) == list(range(1000))
    assert list(order) == found
    batches = [[sizes[row] for row in found[start : start + 8]] for start in range(0, 1000, 8)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 40
    order.set_epoch(1)
    assert list(order) != found

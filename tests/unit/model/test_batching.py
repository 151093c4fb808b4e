"""Batches: every row once, longest first, within the budget, and never over a rotary boundary."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llama2vec.errors import DataError
from llama2vec.model.batching import cells_per_batch, chunks, padded_batches, texts_of
from llama2vec.records import Passage, Query


def test_windows_cut_a_stream_and_keep_its_order() -> None:
    assert list(chunks(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []


def test_texts_come_from_lists_columns_and_records() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["A camelid.", "A river."]})
    expected = ["A camelid.", "A river."]
    assert texts_of(frame["text"]) == texts_of(iter(expected)) == texts_of(frame["text"].to_numpy()) == expected
    assert texts_of([Passage("1", "A camelid.", "Llama"), Query("2", "A river.")]) == ["Llama A camelid.", "A river."]
    with pytest.raises(DataError, match=r"a DataFrame cannot be embedded; give its texts, such as list\(frame"):
        texts_of(frame)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"text": ["A camelid."]}, "a dict cannot be embedded; give its texts"),
        (None, "the texts are of type NoneType; give a list of strings, passages or queries"),
        (7, "the texts are of type int; give a list"),
        ("A camelid.", "the texts are of type str; give a list"),
        ([{"text": "A camelid."}], "text 1 is of type dict; give strings"),
    ],
)
def test_what_holds_no_texts_is_one_line(items: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        texts_of(items)


def test_the_size_of_a_batch_follows_the_device_and_the_way_of_reading() -> None:
    assert [cells_per_batch("cpu", compiled=compiled) for compiled in (False, True)] == [1024, 4096]
    assert [cells_per_batch("cpu", compiled=True, tokens=tokens) for tokens in (256, 400)] == [4096, 1024]
    assert [cells_per_batch("cuda", compiled=compiled) for compiled in (False, True)] == [65536, 65536]
    # The states of all layers are kept where several are averaged.
    assert [cells_per_batch(device, layers=8) for device in ("cpu", "cuda")] == [1024, 16384]
    assert cells_per_batch("mps") == 1024


def test_batches_hold_every_row_once_longest_first_within_the_budget() -> None:
    draw = random.Random(0)
    sequences = [list(range(draw.randint(1, 30))) for _ in range(50)]
    batches = list(padded_batches(sequences, max_cells=64, pad_id=9))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(50))
    assert max(map(len, sequences)) == batches[0].input_ids.shape[1]
    for batch in batches:
        assert len(batch.rows) == 1 or batch.input_ids.numel() <= 64
        for index, row in enumerate(batch.rows):
            size = len(sequences[row])
            assert batch.lengths[index] == size
            assert batch.input_ids[index, :size].tolist() == sequences[row]
            assert set(batch.input_ids[index, size:].tolist()) <= {9}


def test_rows_on_both_sides_of_a_boundary_never_share_a_batch() -> None:
    draw = random.Random(1)
    sequences = [[1] * draw.randint(1, 40) for _ in range(60)]
    batches = list(padded_batches(sequences, max_cells=200, pad_id=0, boundary=17))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(60))
    sides = [{len(sequences[row]) > 17 for row in batch.rows} for batch in batches]
    assert all(len(side) == 1 for side in sides)
    assert {True} in sides
    assert {False} in sides
    plain = list(padded_batches(sequences, max_cells=200, pad_id=0))
    assert any(len({len(sequences[row]) > 17 for row in batch.rows}) == 2 for batch in plain)


def test_with_equal_lengths_no_row_is_padded_and_none_is_lost() -> None:
    sequences = [[1] * length for length in (3, 0, 5, 3, 0, 5, 3)]
    batches = list(padded_batches(sequences, 6, 9, equal_lengths=True))
    assert [(batch.rows, batch.lengths.unique().tolist()) for batch in batches] == [
        ([2], [5]), ([5], [5]), ([0, 3], [3]), ([6], [3]), ([1, 4], [0])
    ]  # fmt: skip
    assert all(batch.input_ids.shape[1] == max(1, int(batch.lengths[0])) for batch in batches)

"""Examples on the disk give the draws, known answers and held-out queries of those in memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from llama2vec.data.examples.spool import Sizes
from llama2vec.finetune.batches import ContrastiveOrder, DrawnExamples, positive_keys, query_keys
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.finetune.spooled import spooled_examples, spooled_queries
from llama2vec.finetune.validation import held_out_queries, hold_out
from llama2vec.records import TrainingExample


def made(count: int) -> list[tuple[TrainingExample, int]]:
    return [
        (
            TrainingExample(
                f"query {row // 2}", (f"answer {row % 9}",), (f"other {row}",), (1.5,), (0.5,), "", (f"p{row % 9}",)
            ),
            row % 2,
        )
        for row in range(count)
    ]


def test_rows_draws_and_known_answers_are_those_of_examples_in_memory(tmp_path: Path) -> None:
    rows = made(40)
    spool, held_out = spooled_examples(tmp_path / "rows.sqlite", rows, share=0.0, most_held_out=10, seed=0)
    assert held_out == []
    assert list(spool) == [example for example, _ in rows]
    settings = ContrastiveSettings(negatives=1)
    found = DrawnExamples(spool, Sizes(spool), settings, 3)
    expected = DrawnExamples([example for example, _ in rows], [source for _, source in rows], settings, 3)
    for index in (0, 7, 39, 45, 79):
        assert found[index] == expected[index]
        assert found.conflicts(index % 40) == expected.conflicts(index % 40)


def test_a_query_in_another_case_has_the_same_known_answers(tmp_path: Path) -> None:
    rows = [
        TrainingExample("Who is it", ("she",)),
        TrainingExample("who IS it", ("her",)),
        TrainingExample("x", ("y",)),
    ]
    spool, _ = spooled_examples(
        tmp_path / "rows.sqlite", [(row, 0) for row in rows], share=0.0, most_held_out=0, seed=0
    )
    for examples in (
        DrawnExamples(rows, None, ContrastiveSettings(), 0),
        DrawnExamples(spool, None, ContrastiveSettings(), 0),
    ):
        first, second, other = examples[0], examples[1], examples[2]
        assert first.answer_keys == second.answer_keys
        assert {passage for passage, _ in (*first.passage_keys, *second.passage_keys)} <= {*first.answer_keys}
        assert set(first.answer_keys).isdisjoint(other.answer_keys)


def keys_of(example: TrainingExample, source: int) -> set[int]:
    return {*query_keys(example, source), *positive_keys(example, source)}


def linked(count: int) -> list[tuple[TrainingExample, int]]:
    """Each query has two rows with two positives; the second is that of the next query too, in threes."""
    rows = []
    for row in range(count):
        query, second = row // 2, row % 2
        answer = f"{query // 3} {min(query % 3 + second, 2)}"
        rows.append((TrainingExample(f"query {query}", (f"answer {answer}",), positive_ids=(f"p {answer}",)), 0))
    return rows


def test_rows_that_share_a_query_or_a_positive_are_held_out_together_up_to_a_number(tmp_path: Path) -> None:
    rows = linked(600)
    spool, held_out = spooled_examples(tmp_path / "rows.sqlite", rows, share=0.5, most_held_out=20, seed=0)
    assert 6 <= len(held_out) <= 20
    held = set().union(*(keys_of(*one) for one in held_out))
    assert held.isdisjoint(set().union(*(keys_of(one, 0) for one in spool)))
    everything = [one for one, _ in held_out] + list(spool)
    assert sorted(everything, key=repr) == sorted((one for one, _ in rows), key=repr)
    assert list(Sizes(spool)) == [0] * len(spool)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.sqlite"]


def test_held_out_rows_come_from_all_sources_and_the_seed_takes_part(tmp_path: Path) -> None:
    rows = [(TrainingExample(f"query {row}", (f"answer {row}",)), row // 200) for row in range(400)]

    def held_out(seed: int) -> list[tuple[TrainingExample, int]]:
        return spooled_examples(tmp_path / "rows.sqlite", rows, share=0.1, most_held_out=20, seed=seed)[1]

    found = held_out(0)
    assert len(found) == 20
    assert {source for _, source in found} == {0, 1}
    assert held_out(0) == found
    assert held_out(1) != found


@pytest.mark.parametrize("seed", range(5))
def test_the_held_out_rows_are_those_of_examples_in_memory(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    texts = [(f"query {draw.randrange(200)}", f"answer {draw.randrange(250)}") for _ in range(200)]
    rows = [(TrainingExample(query, (answer,)), row % 2) for row, (query, answer) in enumerate(texts)]
    examples, sources = [one for one, _ in rows], [source for _, source in rows]
    for queries in (None, held_out_queries(rows[:150], 0.1, 20, seed)):
        _, out = hold_out(examples, 0.1, 20, seed, sources, queries)
        spool, held_out = spooled_examples(
            tmp_path / "rows.sqlite", rows, share=0.1, most_held_out=20, seed=seed, queries=queries
        )
        assert held_out == [rows[row] for row in out]
        assert held_out
        assert len(spool) + len(out) == 200


@pytest.mark.parametrize("seed", range(5))
def test_the_queries_drawn_on_the_disk_are_those_drawn_in_memory(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    rows = []
    for row in range(300):
        passage, ids = draw.randrange(900), {}
        if row % 3:  # Some rows have ids, which link within a source alone
            ids = {"query_id": f"q{draw.randrange(900)}", "positive_ids": ("", f"p{passage}")}
        positives = (f"answer {row}", f"answer {passage}")
        rows.append((TrainingExample(f"query {draw.randrange(900)}", positives, **ids), row % 2))
    expected = held_out_queries(rows, 0.1, 20, seed)
    assert spooled_queries(tmp_path / "rows.sqlite", rows, share=0.1, most_held_out=20, seed=seed) == expected
    assert expected
    assert list(tmp_path.iterdir()) == []


def test_a_draw_on_the_disk_holds_a_small_part_of_the_keys_in_memory(tmp_path: Path) -> None:
    count = 20_000
    rows = ((TrainingExample(f"query {row}", (f"answer {row}",)), 0) for row in range(count))
    tracemalloc.start()
    try:
        found = spooled_queries(tmp_path / "rows.sqlite", rows, share=0.1, most_held_out=20, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 20
    assert peak < 60 * count  # In memory, they take over 600 bytes a row


def test_a_group_that_is_too_large_stays_in_training(tmp_path: Path) -> None:
    rows = [(TrainingExample(f"query {row}", ("the same",)), 0) for row in range(50)]
    assert spooled_examples(tmp_path / "rows.sqlite", rows, share=0.1, most_held_out=20, seed=0)[1] == []


def test_batches_hold_every_row_once_and_keep_equal_queries_apart(tmp_path: Path) -> None:
    spool, _ = spooled_examples(tmp_path / "rows.sqlite", made(64), share=0.0, most_held_out=0, seed=0)
    order = ContrastiveOrder(DrawnExamples(spool, Sizes(spool), ContrastiveSettings(), 0), 4, 0)
    first = list(order)
    assert sorted(first) == list(range(64))
    assert list(order) == first
    batches = [first[start : start + 4] for start in range(0, 64, 4)]
    clashes = sum(len({row // 2 for row in batch}) < len(batch) for batch in batches)
    assert clashes <= 1
    order.set_epoch(1)
    second = list(order)
    assert sorted(second) == list(range(64, 128))
    assert [row - 64 for row in second] != first

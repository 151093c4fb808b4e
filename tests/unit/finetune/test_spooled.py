"""Examples on the disk give the draws, known answers and held-out queries of those in memory."""

from __future__ import annotations

from pathlib import Path

from llama2vec.data.spool import Sizes
from llama2vec.finetune.batches import ContrastiveOrder, DrawnExamples
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.finetune.spooled import spooled_examples
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
    spool, held_out = spooled_examples(tmp_path / "rows.sqlite", rows, share=0.0, most_held_out=10)
    assert held_out == []
    assert list(spool) == [example for example, _ in rows]
    settings = ContrastiveSettings(negatives=1)
    found = DrawnExamples(spool, Sizes(spool), settings, 3)
    expected = DrawnExamples([example for example, _ in rows], [source for _, source in rows], settings, 3)
    for index in (0, 7, 39, 45, 79):
        assert found[index] == expected[index]
        assert found.conflicts(index % 40) == expected.conflicts(index % 40)


def test_queries_of_one_positive_are_held_out_together_up_to_a_number(tmp_path: Path) -> None:
    rows = made(400)
    spool, held_out = spooled_examples(tmp_path / "rows.sqlite", rows, share=0.5, most_held_out=3)
    held = {example.positives for example in held_out}
    assert held
    assert held.isdisjoint(example.positives for example in spool)
    assert len(spool) + len(held_out) == 400
    # Three chose the positives; later queries of the same positives follow them.
    assert len(held) <= 3


def test_batches_hold_every_row_once_and_keep_equal_queries_apart(tmp_path: Path) -> None:
    spool, _ = spooled_examples(tmp_path / "rows.sqlite", made(64), share=0.0, most_held_out=0)
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

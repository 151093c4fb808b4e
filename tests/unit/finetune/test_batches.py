"""What an epoch draws, which rows share a batch, and which batch-mates are really positives."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama2vec.errors import ExampleFormatError, TrainingError
from llama2vec.finetune.batches import (
    ContrastiveOrder,
    DrawnExamples,
    checked_examples,
    contrastive_batch,
    spread,
)
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.records import TrainingExample


def drawn(examples: list[TrainingExample], sources: list[int] | None = None, seed: int = 0, **settings: Any) -> Any:
    return DrawnExamples(examples, sources, ContrastiveSettings(**settings), seed)


RICH = TrainingExample(
    "q", tuple(f"p{number}" for number in range(4)), tuple(f"n{number}" for number in range(9)),
    positive_scores=(0.0, 1.0, 2.0, 3.0), negative_scores=tuple(float(number + 10) for number in range(9)),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- drawing


def test_seed_epoch_and_row_decide_what_is_drawn() -> None:
    rows = [RICH] * 5
    examples = drawn(rows, positives=2, negatives=3)
    again = drawn(rows, positives=2, negatives=3)
    assert [examples[index] for index in range(20)] == [again[index] for index in reversed(range(20))][::-1]
    assert len({examples[index].passages for index in range(20)}) > 15
    assert drawn(rows, positives=2, negatives=3, seed=1)[0] != examples[0]
    for index in range(20):
        found = examples[index]
        assert found.positive_count == 2
        assert all(text.startswith("p") for text in found.passages[:2])
        assert len({text for text in found.passages[2:] if text.startswith("n")}) == 3


def test_every_positive_and_negative_gets_its_turn() -> None:
    examples = drawn([RICH], negatives=2)
    seen = {text for epoch in range(60) for text in examples[epoch].passages}
    assert seen == {*RICH.positives, *RICH.negatives}


def test_a_row_gives_what_it_has() -> None:
    found = drawn([TrainingExample("q", ("p",), ("n",))], positives=3, negatives=5)[0]
    assert (found.passages, found.positive_count) == (("p", "n"), 1)


def test_teacher_scores_follow_their_passages() -> None:
    examples = drawn([RICH], positives=2, negatives=3)
    for epoch in range(10):
        found = examples[epoch]
        expected = [float(text[1:]) + (10 if text.startswith("n") else 0) for text in found.passages]
        assert list(found.teacher_scores) == expected
    half = TrainingExample("q", ("p",), ("n",), positive_scores=(1.0,))
    assert drawn([half])[0].teacher_scores == ()


# --------------------------------------------------------------------------------------------------------- bad examples


def check(examples: list[TrainingExample], **settings: Any) -> None:
    rows = [(example, 0) for example in examples]
    assert list(checked_examples(rows, ContrastiveSettings(**settings))) == rows


def test_a_row_without_a_positive_is_named() -> None:
    with pytest.raises(ExampleFormatError, match=r"example 2 \('winter'\) has no positive"):
        check([TrainingExample("q", ("p",)), TrainingExample("winter", ())])


def test_a_passage_on_both_sides_is_named() -> None:
    with pytest.raises(ExampleFormatError, match=r"example 1 \('q'\) has 'p' as both positive and negative"):
        check([TrainingExample("q", ("p",), ("n", "p"))])


def test_fewer_negatives_than_asked_are_counted_once_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    rows = [TrainingExample(f"q{number}", ("p",), tuple("abc"[:number])) for number in range(4)]
    with caplog.at_level(logging.WARNING, "llama2vec"):
        check(rows, negatives=2)
    assert [record.getMessage() for record in caplog.records] == [
        "fewer than 2 hard negatives for 2 of 4 queries (1 none); using the other passages of the batch as negatives"
    ]
    with pytest.raises(TrainingError, match=r"fewer than 2 hard negatives for 2 of 4 queries.*missing_negatives"):
        check(rows, negatives=2, missing_negatives="error")


def test_hard_negatives_that_the_recipe_leaves_unused_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [TrainingExample("a", ("p",), ("n",)), TrainingExample("b", ("p",)), TrainingExample("c", ("p",), ("n",))]
    check(rows, negatives=0)
    assert "contrastive.negatives is 0: the hard negatives of 2 of 3 queries are not used" in caplog.text
    caplog.clear()
    check(rows[1:2], negatives=0)
    check(rows, negatives=1)
    assert "are not used" not in caplog.text


def test_distillation_without_any_teacher_score_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"no example has pos_scores"):
        check([TrainingExample("q", ("p",))], distillation_weight=1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"distillation_weight": 1.0},
        {"distillation_weight": 1.0, "distillation": "margin_mse", "positives": 2},
        {"false_negatives": "teacher"},
    ],
)
def test_teacher_scores_that_compare_nothing_are_refused(settings: dict[str, Any]) -> None:
    alone = TrainingExample("q", ("p", "r"), (), positive_scores=(1.0, 0.5))
    with pytest.raises(TrainingError, match="no example with pos_scores has a hard negative with a score"):
        check([alone], **settings)
    check([alone, RICH], **settings)


@pytest.mark.parametrize("settings", [{"distillation_weight": 1.0}, {"false_negatives": "teacher"}])
def test_queries_without_scores_beside_others_with_scores_are_counted(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    plain = [TrainingExample(f"q{number}", (f"p{number}",), ("n",)) for number in range(199)]
    scored = TrainingExample("q", ("p",), ("n",), positive_scores=(1.0,), negative_scores=(0.5,))
    check([*plain, scored], **settings)
    assert "199 of 200 queries have no scores to learn from; give them pos_scores and neg_scores" in caplog.text
    caplog.clear()
    check([*plain, scored])
    check([scored], **settings)
    assert not caplog.records


def test_two_scored_positives_are_enough_to_compare() -> None:
    alone = TrainingExample("q", ("p", "r"), (), positive_scores=(1.0, 0.5))
    check([alone], distillation_weight=1.0, positives=2, negatives=0)


# --------------------------------------------------------------------------------------------------------------- order


def pairs(count: int, positives: int) -> list[TrainingExample]:
    return [TrainingExample(f"q{row}", (f"p{row % positives}",)) for row in range(count)]


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        made = ContrastiveOrder(drawn(pairs(50, 20)), 8, seed)
        made.set_epoch(epoch)
        return list(made)

    for epoch in range(3):
        assert sorted(order(0, epoch)) == list(range(50 * epoch, 50 * epoch + 50))
    assert order(0, 1) == order(0, 1)
    assert [index % 50 for index in order(0, 0)] != [index % 50 for index in order(0, 1)]
    assert order(0, 0) != order(1, 0)


def test_rows_with_the_same_positive_do_not_share_a_batch_where_that_can_be_avoided() -> None:
    for count, positives, size in ((64, 16, 8), (96, 12, 8), (60, 10, 6)):
        rows = list(ContrastiveOrder(drawn(pairs(count, positives)), size, 0))
        batches = [rows[start : start + size] for start in range(0, count, size)]
        clashes = sum(size - len({row % positives for row in batch}) for batch in batches)
        by_chance = random.Random(0).sample(range(count), count)
        chance = sum(
            size - len({row % positives for row in by_chance[start : start + size]}) for start in range(0, count, size)
        )
        assert clashes <= chance / 3, (count, positives, clashes, chance)


def test_one_positive_for_all_rows_still_gives_full_batches() -> None:
    conflicts = [{1}] * 100
    batches = spread(list(range(100)), conflicts, 8)
    assert [len(batch) for batch in batches] == [8] * 12 + [4]
    assert sorted(row for batch in batches for row in batch) == list(range(100))


def test_homogeneous_batches_hold_one_source_until_the_rest_is_mixed() -> None:
    sources = [0] * 21 + [1] * 13 + [2] * 3
    examples = drawn(pairs(37, 37), sources)
    rows = list(ContrastiveOrder(examples, 4, 0, homogeneous=True))
    batches = [{sources[row] for row in rows[start : start + 4]} for start in range(0, 36, 4)]
    assert sorted(rows) == list(range(37))
    assert [len(batch) for batch in batches[:8]] == [1] * 8
    assert len({source for batch in batches[:8] for source in batch}) == 2


# --------------------------------------------------------------------------------------------------------------- masks


def answers(examples: list[TrainingExample], sources: list[int] | None = None, **settings: Any) -> list[list[bool]]:
    rows = drawn(examples, sources, **settings)
    batch = [rows[row] for row in range(len(rows))]
    count = sum(len(row.passages) for row in batch)
    made = contrastive_batch(batch, [[row] for row in range(len(batch))], [[100 + n] for n in range(count)])
    return made.labels(made.passage_keys, 0, torch.device("cpu")).answers.tolist()


def test_equal_text_and_equal_id_of_a_batch_mate_mask_it_out() -> None:
    rows = [
        TrainingExample("a", ("one",), positive_ids=("1",)),
        TrainingExample("b", (" one  ",), positive_ids=("2",)),  # the same text but for white space
        TrainingExample("c", ("another wording",), positive_ids=("1",)),  # the same id
        TrainingExample("d", ("four",), positive_ids=("4",)),
    ]
    assert answers(rows) == [
        [True, True, True, False],
        [True, True, False, False],
        [True, False, True, False],
        [False, False, False, True],
    ]


def test_all_known_positives_count_not_only_the_drawn_one_and_those_of_equal_queries_too() -> None:
    rows = [
        TrainingExample("a", ("one", "two", "three")),
        TrainingExample("b", ("two",)),
        TrainingExample("c", ("three",)),
        TrainingExample("a ", ("five",)),  # asks the same as the first
        TrainingExample("e", ("six",), ("five",)),  # its hard negative answers "a"
        TrainingExample("f", ("seven",), query_id="9"),
        TrainingExample("g", ("eight",), query_id="9"),
    ]
    found = answers(rows)
    assert found[0] == [True, True, True, True, False, True, False, False]
    assert found[3] == found[0]
    assert found[4] == [False, False, False, False, True, False, False, False]
    assert found[5] == found[6] == [False] * 6 + [True, True]


def test_ids_count_within_their_source() -> None:
    rows = [TrainingExample("a", ("one",), positive_ids=("1",)), TrainingExample("b", ("two",), positive_ids=("1",))]
    assert answers(rows) == [[True, True], [True, True]]
    assert answers(rows, [0, 1]) == [[True, False], [False, True]]


def test_labels_of_a_later_process_point_behind_the_passages_of_the_first() -> None:
    rows = drawn([RICH, TrainingExample("r", ("x",))], positives=2, negatives=1)
    made = contrastive_batch([rows[0], rows[1]], [[1], [2]], [[3], [4], [5], [6]])
    labels = made.labels(torch.cat([torch.zeros(10, 2, dtype=torch.long), made.passage_keys]), 10, torch.device("cpu"))
    assert labels.positives.tolist() == [[10, 11], [13, -1]]
    assert labels.own.tolist() == [[10, 11, 12], [-1, -1, -1]]
    assert labels.answers[:, :10].sum() == 0


def test_batches_of_an_order_are_what_the_loop_reads(make_objective: Callable[..., Any]) -> None:
    from llama2vec.training.settings import OptimizerSettings

    _, objective = make_objective()
    examples = drawn(pairs(10, 10))
    order = objective.order(examples, OptimizerSettings(batch_size=5))
    order.set_epoch(2)
    assert {examples[index].query for index in order} == {f"q{row}" for row in range(10)}

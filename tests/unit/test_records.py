"""The types that travel between the stages."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from llama2vec.records import Passage, Run, is_iterable, is_whole_number


@pytest.mark.parametrize(
    ("passage", "text"),
    [
        (Passage("1", "A camelid.", "Llama"), "Llama A camelid."),
        (Passage("1", " as it is "), " as it is "),
        (Passage("1", "", "Title alone"), "Title alone"),
    ],
)
def test_title_and_body_are_one_text(passage: Passage, text: str) -> None:
    assert passage.full_text == text


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_the_run() -> None:
    scores = {"b": 1.0, "a": 1.0, "c": 2.0, "10": 1.0}
    expected = [("c", 2.0), ("10", 1.0), ("a", 1.0), ("b", 1.0)]
    assert Run({"q": scores}).ranking("q") == expected
    assert Run({"q": dict(reversed(scores.items()))}).ranking("q") == expected


def test_a_passage_cannot_change_on_its_way() -> None:
    with pytest.raises(FrozenInstanceError):
        Passage("1", "x").text = "y"  # type: ignore[misc]


def test_what_counts_and_what_can_be_iterated_over() -> None:
    assert all(map(is_whole_number, (0, -3, np.int64(3), np.uint8(3))))
    assert not any(map(is_whole_number, (True, np.bool_(True), 3.0, np.float32(3), "3", None, np.array([3]))))
    assert all(map(is_iterable, ([], "a", np.array([1]), iter([]))))
    assert not any(map(is_iterable, (3, None, np.array(3), np.array("a"))))

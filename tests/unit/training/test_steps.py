"""Counts of a whole step; `tests/unit/adapt/test_objective.py` and `tests/end_to_end` look at the losses."""

from __future__ import annotations

import torch

from llama2vec.training.steps import COUNTS, share_counts


def test_each_batch_gets_the_mean_count_of_the_step_and_keeps_the_rest() -> None:
    batches = [{"x": 1, COUNTS: {"loss_self": 4, "loss_next": 0}}, {"x": 2, COUNTS: {"loss_self": 2, "loss_next": 1}}]
    means = {"loss_self": 3.0, "loss_next": 0.5}
    assert share_counts(batches) == [{"x": 1, COUNTS: means}, {"x": 2, COUNTS: means}]
    assert share_counts(batches, torch.device("cpu")) == share_counts(batches)  # One process
    assert batches[0][COUNTS] == {"loss_self": 4, "loss_next": 0}


def test_batches_without_counts_stay_as_they_are() -> None:
    assert share_counts([{"x": 1}]) == [{"x": 1}]
    assert share_counts([]) == []

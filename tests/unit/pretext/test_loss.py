"""The loss of a bag of tokens against values computed by hand in float64, and against torch's own cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch

from llama2vec.errors import EmptyTargetsError
from llama2vec.pretext.loss import bag_of_tokens_loss


def by_hand(slots: list[list[list[float]]], targets: list[list[int]], weights: list[list[float]]) -> float:
    """Mean over the rows of ``-sum_t w_t log softmax(max over slots)_t / sum_t w_t``, in Python's float64."""
    rows = []
    for row_slots, row_targets, row_weights in zip(slots, targets, weights, strict=True):
        if sum(row_weights) == 0:
            continue
        logits = [max(values) for values in zip(*row_slots, strict=True)]
        total = math.log(sum(math.exp(value) for value in logits))
        scores = [weight * (total - logits[token]) for token, weight in zip(row_targets, row_weights, strict=True)]
        rows.append(sum(scores) / sum(row_weights))
    return sum(rows) / len(rows)


SLOTS = [[[0.5, -1.0, 2.0, 0.0], [1.5, 0.25, -3.0, 0.75]], [[0.0, 0.1, 0.2, 0.3], [4.0, -4.0, 1.0, 2.0]]]
TARGETS = [[0, 2], [3, 1]]


@pytest.mark.parametrize("weights", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]], [[0.5, 2.0], [3.0, 0.0]]])
@pytest.mark.parametrize("slots", [1, 2])
def test_the_loss_equals_the_value_computed_by_hand(slots: int, weights: list[list[float]]) -> None:
    logits = [row[:slots] for row in SLOTS]
    found = bag_of_tokens_loss(torch.tensor(logits), torch.tensor(TARGETS), torch.tensor(weights))
    assert found.item() == pytest.approx(by_hand(logits, TARGETS, weights), rel=1e-6)


def test_the_loss_of_one_slot_and_one_target_is_cross_entropy_with_its_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 1, 50, dtype=torch.float32, requires_grad=True)
    targets = torch.randint(0, 50, (6, 1))
    loss = bag_of_tokens_loss(logits, targets, torch.ones(6, 1))
    (found,) = torch.autograd.grad(loss, logits)
    double = logits.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(double[:, 0], targets[:, 0])
    (gradient,) = torch.autograd.grad(expected, double)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(found.double(), gradient, rtol=1e-5, atol=1e-7)


def test_of_several_slots_the_largest_logit_of_each_token_counts_and_gets_the_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 20, requires_grad=True)
    targets, weights = torch.randint(0, 20, (3, 5)), torch.rand(3, 5)
    loss = bag_of_tokens_loss(logits, targets, weights)
    assert loss.item() == pytest.approx(by_hand(logits.tolist(), targets.tolist(), weights.tolist()), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert bool(((logits.grad != 0).sum(dim=1) <= 1).all())
    largest = logits.argmax(dim=1)
    touched = logits.grad.abs().sum(dim=1) > 0
    assert bool((logits.grad.abs().argmax(dim=1)[touched] == largest[touched]).all())


def test_rows_without_targets_are_skipped() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 2, 10), torch.tensor([[1, 2], [0, 0], [3, 0]])
    weights = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    kept = [0, 2]
    expected = bag_of_tokens_loss(logits[kept], targets[kept], weights[kept])
    torch.testing.assert_close(bag_of_tokens_loss(logits, targets, weights), expected)


def test_a_batch_without_any_target_is_an_error() -> None:
    with pytest.raises(EmptyTargetsError, match="no text of this batch"):
        bag_of_tokens_loss(torch.randn(2, 1, 5), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1))


def test_half_precision_logits_are_scored_in_float32() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 2, 30) * 8).bfloat16()
    targets, weights = torch.randint(0, 30, (2, 4)), torch.ones(2, 4)
    loss = bag_of_tokens_loss(logits, targets, weights)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(logits.tolist(), targets.tolist(), weights.tolist()), rel=1e-5)

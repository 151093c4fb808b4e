"""The chunked loss of the language model against torch's own cross-entropy."""

from __future__ import annotations

import pytest
import torch

from llama2vec.adapt.language_model_loss import IGNORED, language_model_loss


@pytest.mark.parametrize("rows", [1, 511, 512, 513, 1300])
def test_the_chunked_language_model_loss_equals_torchs_cross_entropy(rows: int) -> None:
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 16, requires_grad=True)
    head = torch.randn(40, 16, requires_grad=True)
    labels = torch.randint(0, 40, (rows,))
    labels[torch.rand(rows) < 0.3] = IGNORED
    labels[0] = 7
    found = language_model_loss(hidden, head, labels)
    # An upstream factor, as a weight on the loss makes it.
    found_gradients = torch.autograd.grad(found * 2.5, (hidden, head))
    expected = torch.nn.functional.cross_entropy(hidden @ head.T, labels, ignore_index=IGNORED)
    gradients = torch.autograd.grad(expected * 2.5, (hidden, head))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", [(True, False), (False, True)])
def test_the_chunked_loss_gives_gradients_only_to_what_is_trained(trained: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(9, 4, requires_grad=trained[0]), torch.randn(12, 4, requires_grad=trained[1])
    labels = torch.randint(0, 12, (9,))
    language_model_loss(hidden, head, labels).backward()
    wanted = torch.nn.functional.cross_entropy
    one, other = hidden.detach().requires_grad_(trained[0]), head.detach().requires_grad_(trained[1])
    wanted(one @ other.T, labels).backward()
    for found, expected in ((hidden, one), (head, other)):
        assert (found.grad is None) == (expected.grad is None)
        if found.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)


def test_the_chunked_loss_in_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(600, 16).bfloat16().requires_grad_(), torch.randn(30, 16).bfloat16().requires_grad_()
    labels = torch.randint(0, 30, (600,))
    loss = language_model_loss(hidden, head, labels)
    loss.backward()
    one, other = hidden.detach().float().requires_grad_(), head.detach().float().requires_grad_()
    expected = torch.nn.functional.cross_entropy(one @ other.T, labels)
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert hidden.grad is not None
    assert head.grad is not None
    assert one.grad is not None
    assert other.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    torch.testing.assert_close(hidden.grad.float(), one.grad, rtol=0.1, atol=2e-2 * float(one.grad.abs().max()))
    torch.testing.assert_close(head.grad.float(), other.grad, rtol=0.1, atol=2e-2 * float(other.grad.abs().max()))


def test_a_loss_without_scored_positions_is_zero() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    loss = language_model_loss(hidden, torch.randn(5, 4), torch.full((3,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()

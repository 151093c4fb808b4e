"""The loss of the language model on T, in chunks of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
_CHUNK_ROWS = 512


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of ``hidden @ weight.T`` that holds only one chunk of logits at a time.

    The forward pass computes the gradients along with the loss, chunk by chunk; the backward pass repeats no product.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        rows = labels != IGNORED
        count = int(rows.sum())
        kept, kept_labels = hidden[rows], labels[rows]
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_kept = torch.empty_like(kept) if need_hidden else None
        make = torch.empty_like if count else torch.zeros_like
        grad_weight = make(weight, dtype=torch.float32) if need_weight else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, count, _CHUNK_ROWS):
            chunk, chunk_labels = kept[start : start + _CHUNK_ROWS], kept_labels[start : start + _CHUNK_ROWS, None]
            logits = (chunk @ weight.T).float()
            scored = logits.gather(1, chunk_labels)
            if not (need_hidden or need_weight):
                loss += (logits.logsumexp(dim=1, keepdim=True) - scored).sum()
                continue
            # The largest probability is at least 1 / V, so its logarithm is safe; this saves the passes of logsumexp.
            highest, where = logits.max(dim=1, keepdim=True)
            gradient = logits.softmax(dim=1)
            del logits
            loss += (highest - gradient.gather(1, where).log() - scored).sum()
            gradient.scatter_add_(1, chunk_labels, gradient.new_full(chunk_labels.shape, -1.0))
            gradient = gradient.to(weight.dtype)
            if grad_kept is not None:
                grad_kept[start : start + _CHUNK_ROWS] = (gradient @ weight).div_(count)
            if grad_weight is not None:
                share = chunk / count
                if grad_weight.dtype == gradient.dtype:
                    # With beta = 0 the uninitialized contents of the tensor are ignored.
                    grad_weight.addmm_(gradient.T, share, beta=1 if start else 0)
                else:
                    product = gradient.T @ share
                    grad_weight = grad_weight.add_(product) if start else grad_weight.copy_(product)
        ctx.rows, ctx.shape = rows, hidden.shape
        ctx.save_for_backward(*(tensor for tensor in (grad_kept, grad_weight) if tensor is not None))
        ctx.has, ctx.weight_dtype = (need_hidden, need_weight), weight.dtype
        return loss / max(count, 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        saved = list(ctx.saved_tensors)
        grad_hidden = grad_weight = None
        if ctx.has[0]:
            kept = saved.pop(0)
            grad_hidden = kept.new_zeros(ctx.shape)
            grad_hidden[ctx.rows] = kept * upstream[0].to(kept.dtype)
        if ctx.has[1]:
            grad_weight = saved.pop(0).mul_(upstream[0]).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None


def language_model_loss(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Return the mean next-token loss in nats over the scored positions, 0 without any; logits exist chunk by chunk.

    ``hidden`` [N, D], ``head`` [V, D] (weight of the output head), ``labels`` [N] (the next token; -100 = not scored).
    """
    result: Tensor = _ChunkedCrossEntropy.apply(hidden, head, labels)  # type: ignore[no-untyped-call]
    return result

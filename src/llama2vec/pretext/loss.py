"""EBAE and EBAR losses, which score how well one embedding predicts a bag of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llama2vec.errors import EmptyTargetsError


def padded_targets(rows: Sequence[Sequence[int]], token_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the targets of B texts as ids [B, T], right-padded with 0, and their weights [B, T], 0 = padding.

    ``token_weights`` [V] weigh the targets (None: 1).
    """
    width = max((len(row) for row in rows), default=0) or 1
    targets = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        ids = torch.tensor(row, dtype=torch.long)
        targets[index, : len(row)] = ids
        weights[index, : len(row)] = 1.0 if token_weights is None else token_weights[ids]
    return targets, weights


def bag_of_tokens_loss(slot_logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Score how well slot logits predict a bag of tokens (Llama2Vec, arXiv 2312.15503, pretext tasks).

    Several slots give one distribution: the element-wise maximum of their logits, then log-softmax (authors' code).

    Args:
        slot_logits: [B, S, V] head outputs at the slots.
        targets: [B, T] distinct ids, right-padded with any id.
        weights: [B, T] weight of each target; 0 = padding. Each row is normalized to sum 1.

    Returns:
        Mean loss in nats over the rows that have targets; without any, an EmptyTargetsError is raised.

    >>> uniform = torch.zeros(1, 1, 4)
    >>> round(bag_of_tokens_loss(uniform, torch.tensor([[0, 2]]), torch.ones(1, 2)).item(), 4) == 1.3863
    True
    """
    totals = weights.sum(dim=1)
    filled = totals > 0
    if not bool(filled.any()):
        raise EmptyTargetsError("no text of this batch has a token to predict; the corpus may hold only stop words")
    logits = slot_logits.float().amax(dim=1) if slot_logits.shape[1] > 1 else slot_logits[:, 0].float()
    # Log-softmax at the targets only, so that the backward pass needs no second [B, V] tensor.
    log_probabilities = logits.gather(1, targets) - logits.logsumexp(dim=1, keepdim=True)
    per_row = -(log_probabilities * weights).sum(dim=1)[filled] / totals[filled]
    return per_row.mean()

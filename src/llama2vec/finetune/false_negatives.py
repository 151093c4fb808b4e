"""False negatives: passages of the batch that a guide ranks above the query's positive, and that count for nothing.

Collections are full of near-twins: another query's passage may answer this query as well as its own positive does. As
in GISTEmbed (arXiv 2402.16829), a guide scores every pair of the batch, and a negative whose score exceeds that of the
positive leaves the denominator of the loss. Known answers, by id or by equal text, are left out without a guide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llama2vec.finetune.contrastive_loss import Labels
from llama2vec.finetune.settings import ContrastiveSettings


def without_false_negatives(
    labels: Labels, guide_scores: Tensor, settings: ContrastiveSettings
) -> tuple[Labels, Tensor]:
    """Count negatives that the guide scores above the query's best positive as answers, so that the loss skips them.

    Args:
        labels: The labels of Q queries and N passages.
        guide_scores: [Q, N] the guide's scores; minus infinity = not scored, and never left out.
        settings: The margin, and whether it is a difference or a share of the positive's score.

    Returns:
        The labels, and the number of pairs that were left out and would have been negatives otherwise.
    """
    real = labels.positives >= 0  # [Q, K]
    columns = labels.positives.clamp(min=0)
    best = guide_scores.gather(1, columns).masked_fill(~real, -torch.inf).amax(dim=1, keepdim=True)  # [Q, 1]
    margin = settings.false_negative_margin
    # A share of the size, so that the bound also lies below a negative score. Unscored positives give no bound: NaN.
    bound = best - margin * (best.abs() if settings.false_negative_scale == "relative" else 1.0)
    own = torch.zeros_like(guide_scores, dtype=torch.int).scatter_add_(1, columns, real.int()) > 0
    left_out = (guide_scores > bound) & torch.isfinite(best) & ~own & ~labels.answers
    return replace(labels, answers=labels.answers | left_out), left_out.sum()


def teacher_scores_of_all(labels: Labels, passages: int) -> Tensor:
    """Return the teacher's scores as [Q, N], minus infinity where it has scored nothing.

    >>> one = torch.tensor([[1]])
    >>> labels = Labels(one, torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[1, 2]]), torch.tensor([[0.9, 0.2]]))
    >>> teacher_scores_of_all(labels, 3)
    tensor([[  -inf, 0.9000, 0.2000]])
    """
    found = labels.teacher_scores.new_full((len(labels.own), passages + 1), -torch.inf)
    # Padding goes into a column of its own, which is cut off.
    columns = torch.where(labels.own >= 0, labels.own, passages)
    return found.scatter_(1, columns, labels.teacher_scores)[:, :passages]


class StartModel:
    """The model as it was before the training: its adapters switched off, or without adapters a copy of its weights.

    Make it before a checkpoint is loaded.
    """

    def __init__(self, model: Any) -> None:
        has_adapters = any(hasattr(module, "lora_A") for module in model.modules())
        self._copy = None if has_adapters else copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    def read(self, model: Any, embed: Callable[[Any], Iterator[tuple[list[int], Tensor]]]) -> Tensor:
        """Return [N, D] vectors, from ``embed``, which reads texts with a model and yields their numbers and vectors.

        ``model`` is the one in training; it draws no random numbers here and comes back in the same mode.
        """
        with torch.no_grad(), _evaluating(model), nullcontext() if self._copy is not None else model.disable_adapter():
            pieces = list(embed(model if self._copy is None else self._copy))
        vectors = torch.cat([vectors for _, vectors in pieces])
        order = torch.tensor([row for rows, _ in pieces for row in rows], device=vectors.device)
        return vectors[order.argsort()]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

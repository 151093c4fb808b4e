"""InfoNCE, distillation and Matryoshka on vectors, with known answers masked out of the negatives.

Letters: Q queries, N passages (of the whole batch, on all processes), D width, K positives per query, C own passages
per query, A known answers per query. Columns number the N passages; -1 pads shorter rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama2vec.finetune.settings import ContrastiveSettings

NO_COLUMN = -1
NO_KEY = 0


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of the passages of a batch."""

    positives: Tensor  # [Q, K] columns of each query's positives
    answers: Tensor  # [Q, N] True = known to answer the query, so never its negative
    own: Tensor  # [Q, C] columns of the passages that a teacher has scored for the query; all -1 without teacher scores
    teacher_scores: Tensor  # [Q, C] the teacher's scores


def known_answers(answer_keys: Tensor, passage_keys: Tensor) -> Tensor:
    """Return [Q, N]: whether a passage with keys [N, M] (text, id) shares one with a query's answers [Q, A]; 0 = none.

    >>> known_answers(torch.tensor([[7, 0], [5, 9]]), torch.tensor([[7, 0], [8, 9]])).tolist()
    [[True, False], [False, True]]
    """
    sorted_keys = answer_keys.sort(dim=1).values  # [Q, A]
    found = torch.zeros(len(answer_keys), len(passage_keys), dtype=torch.bool, device=passage_keys.device)
    if not sorted_keys.shape[1]:
        return found
    for keys in passage_keys.unbind(dim=1):
        wanted = keys.expand(len(answer_keys), -1).contiguous()  # [Q, N]
        place = torch.searchsorted(sorted_keys, wanted).clamp_(max=sorted_keys.shape[1] - 1)
        found |= (sorted_keys.gather(1, place) == wanted) & (wanted != NO_KEY)
    return found


def info_nce_loss(scores: Tensor, positives: Tensor, answers: Tensor) -> Tensor:
    """Score how well queries distinguish their positives from all other passages (InfoNCE, arXiv 1807.03748).

    Each positive competes with the query's negatives only, not with its other positives; a query's loss is the mean
    over its positives. A query without a negative counts 0.

    Args:
        scores: [Q, N] similarities divided by the temperature.
        positives: [Q, K] columns of each query's positives, -1 = none; the first is never -1.
        answers: [Q, N] True = known to answer the query, so never its negative.

    Returns:
        Mean loss in nats.

    >>> even = torch.zeros(1, 4)
    >>> round(info_nce_loss(even, torch.tensor([[0]]), torch.zeros(1, 4, dtype=torch.bool)).item(), 4)  # log 4
    1.3863
    """
    real = positives >= 0  # [Q, K]
    columns = positives.clamp(min=0)
    own = torch.zeros_like(scores, dtype=torch.int).scatter_add_(1, columns, real.int()) > 0
    # The lowest finite number: a row of minus infinities would have no gradient.
    lowest = torch.finfo(scores.dtype).min
    negatives = scores.masked_fill(answers | own, lowest).logsumexp(dim=1, keepdim=True)  # [Q, 1]
    positive_scores = scores.gather(1, columns)
    losses = (torch.logaddexp(positive_scores, negatives) - positive_scores) * real
    return (losses.sum(dim=1) / real.sum(dim=1).clamp(min=1)).mean()


def distillation_loss(scores: Tensor, own: Tensor, teacher_scores: Tensor, temperature: float) -> Tensor:
    """Score how far the model's scores of a query's own passages are from a teacher's: KL(teacher || model).

    Args:
        scores: [Q, N] similarities divided by the temperature of the contrastive loss.
        own: [Q, C] columns of the query's own passages, -1 = none.
        teacher_scores: [Q, C] the teacher's scores.
        temperature: Divides the teacher's scores.

    Returns:
        Mean over all Q queries in nats; those without teacher scores count 0, also over several processes.
    """
    real = own >= 0
    lowest = torch.finfo(scores.dtype).min
    student = scores.gather(1, own.clamp(min=0)).masked_fill(~real, lowest).log_softmax(dim=1)
    teacher = (teacher_scores / temperature).masked_fill(~real, lowest).log_softmax(dim=1)
    divergence = torch.where(real, teacher.exp() * (teacher - student), 0.0)
    return divergence.sum(dim=1).mean()


def margin_mse_loss(
    scores: Tensor, own: Tensor, teacher_scores: Tensor, positives: Tensor, temperature: float
) -> Tensor:
    """Score how far the model's margins between positives and negatives are from a teacher's (arXiv 2010.02666).

    Args:
        scores: [Q, N] similarities divided by the temperature of the contrastive loss.
        own: [Q, C] columns of the query's own passages, -1 = none.
        teacher_scores: [Q, C] the teacher's scores.
        positives: [Q, K] columns of the query's positives, -1 = none.
        temperature: Divides the teacher's scores.

    Returns:
        Mean over all Q queries of the mean squared error over a query's pairs of a positive and a negative; queries
        without teacher scores, or without a negative, count 0.
    """
    real = own >= 0
    is_positive = (own.unsqueeze(2) == positives.unsqueeze(1)).any(dim=2) & real  # [Q, C]
    pairs = is_positive.unsqueeze(2) & (real & ~is_positive).unsqueeze(1)  # [Q, C, C]
    error = scores.gather(1, own.clamp(min=0)) - teacher_scores / temperature  # [Q, C]
    squares = (error.unsqueeze(2) - error.unsqueeze(1)).square() * pairs
    return (squares.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)).mean()


def contrastive_loss(
    queries: Tensor, passages: Tensor, labels: Labels, settings: ContrastiveSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the weighted sum of InfoNCE and distillation, averaged over the Matryoshka widths (arXiv 2205.13147).

    ``queries`` [Q, D] and ``passages`` [N, D] need no normalization; returns the loss and its unweighted parts by name.
    """
    sums: dict[str, Tensor] = {}
    widths = matryoshka_widths(settings.dimensions, queries.shape[1])
    for width in widths:
        scores = cosines(queries[:, :width], passages[:, :width]) / settings.temperature
        parts = {"loss_contrastive": info_nce_loss(scores, labels.positives, labels.answers)} if settings.weight else {}
        if settings.distillation_weight:
            parts["loss_distillation"] = _distilled(scores, labels, settings)
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part
    means = {name: total / len(widths) for name, total in sums.items()}
    weights = {"loss_contrastive": settings.weight, "loss_distillation": settings.distillation_weight}
    loss = torch.stack([weights[name] * part for name, part in means.items()]).sum()
    return loss, {name: part.detach() for name, part in means.items()}


def _distilled(scores: Tensor, labels: Labels, settings: ContrastiveSettings) -> Tensor:
    temperature = settings.distillation_temperature
    if settings.distillation == "margin_mse":
        return margin_mse_loss(scores, labels.own, labels.teacher_scores, labels.positives, temperature)
    return distillation_loss(scores, labels.own, labels.teacher_scores, temperature)


def cosines(queries: Tensor, passages: Tensor) -> Tensor:
    """Return the cosine [Q, N] of every query and passage."""
    return torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(passages, dim=1).T


def matryoshka_widths(dimensions: Sequence[int], whole: int) -> list[int]:
    """Return the trained widths, each once, the full width last."""
    return sorted({*dimensions, whole})

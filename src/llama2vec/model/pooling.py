"""Hidden states of a right-padded batch → one vector a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llama2vec.config import PromptName
from llama2vec.errors import NotFiniteError
from llama2vec.model.prompt import PromptIds
from llama2vec.records import Vectors

Pooling = Literal["slots", "mean"]


def last_hidden_states(body: Any, input_ids: Tensor, layers: int) -> tuple[Tensor, ...]:
    """Read a batch [B, L] with the part of a causal LM below its head.

    Returns:
        [B, L, D] of each of the last ``layers`` layers; the topmost has been through the model's final norm.
    """
    output = body(input_ids=input_ids, use_cache=False, output_hidden_states=layers > 1)
    return (output.last_hidden_state,) if layers == 1 else tuple(output.hidden_states[-layers:])


def pool(
    hidden: Sequence[Tensor], lengths: Tensor, ids: PromptIds, pooling: Pooling, prompt: PromptName | None
) -> Tensor:
    """Pool each row of a batch.

    Several layers count alike: each one's vector is brought to unit length before the mean, since the lengths of hidden
    states grow from layer to layer.

    Args:
        hidden: One or more layers [B, L, D], padding on the right.
        lengths: [B] tokens of each row without padding.
        ids: Token ids of the prompts around the texts.
        pooling: ``slots`` = mean over the slots, ``mean`` = mean over the text's own tokens.
        prompt: The prompt that follows the texts, if any; only ``mean`` needs to know it.

    Returns:
        [B, D] float32, not normalized.
    """
    mean_of = slot_mean if pooling == "slots" else text_mean
    pooled = [mean_of(layer, lengths, ids, prompt) for layer in hidden]
    return pooled[0] if len(pooled) == 1 else torch.stack([normalize(part, dim=-1) for part in pooled]).mean(dim=0)


def unit_vectors(
    hidden: Sequence[Tensor], lengths: Tensor, ids: PromptIds, pooling: Pooling, prompt: PromptName | None
) -> Vectors:
    """Return what :func:`pool` does as unit vectors [B, D]."""
    vectors: Vectors = normalize(pool(hidden, lengths, ids, pooling, prompt), dim=-1).cpu().numpy()
    return vectors


def check_finite(vectors: Vectors, rows: Sequence[int], model: str, dtype: str) -> None:
    """Raise a NotFiniteError if a vector [B, D] is not finite; ``rows`` [B] are the places of the texts."""
    if not np.isfinite(vectors).all():
        raise NotFiniteError(
            f"{model}: a vector is not finite in {dtype} (text {rows[0] + 1} or one of its batch); load the model as "
            "bfloat16 or float32 (--dtype)"
        )


def slot_states(hidden: Tensor, lengths: Tensor, slots: int) -> Tensor:
    """Return the hidden states [B, S, D] at the slots, which end each row of [B, L, D]."""
    columns = lengths[:, None] - slots + torch.arange(slots, device=hidden.device)  # [B, S]
    return hidden.gather(1, columns[:, :, None].expand(-1, -1, hidden.shape[2]))


def slot_mean(hidden: Tensor, lengths: Tensor, ids: PromptIds, _prompt: PromptName | None) -> Tensor:
    """Return the mean hidden state [B, D] over the slots."""
    return slot_states(hidden, lengths, ids.slots).float().mean(dim=1)


def text_mean(hidden: Tensor, lengths: Tensor, ids: PromptIds, prompt: PromptName | None) -> Tensor:
    """Return the mean hidden state [B, D] over the text's own tokens, or over the last of the prefix of an empty text.

    Of two copies of a text, the second counts.
    """
    ends = lengths - len(ids.after(prompt))
    starts = torch.full_like(ends, len(ids.before(prompt)))
    if ids.repeat is not None:
        starts = ends - (ends - starts - len(ids.repeat)) // 2
    starts = torch.clamp(starts, max=ends - 1).clamp(min=0)
    columns = torch.arange(hidden.shape[1], device=hidden.device)
    inside = ((columns >= starts[:, None]) & (columns < ends[:, None])).float()  # [B, L]
    return torch.einsum("bld,bl->bd", hidden.float(), inside) / inside.sum(dim=1, keepdim=True).clamp(min=1)

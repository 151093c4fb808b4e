"""Hidden states of a right-padded batch → one vector a row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llama2vec.config import PromptName
from llama2vec.model.prompt import PromptIds

Pooling = Literal["slots", "mean"]


def pool(hidden: Tensor, lengths: Tensor, ids: PromptIds, pooling: Pooling, prompt: PromptName | None) -> Tensor:
    """Pool each row of a batch.

    Args:
        hidden: [B, L, D] last hidden states, padding on the right.
        lengths: [B] tokens of each row without padding.
        ids: Token ids of the prompts around the texts.
        pooling: ``slots`` = mean over the slots, ``mean`` = mean over the text's own tokens.
        prompt: The prompt behind the texts; None = none. Only ``mean`` looks at it.

    Returns:
        [B, D] float32, not normalised.
    """
    return _slot_mean(hidden, lengths, ids.slots) if pooling == "slots" else _text_mean(hidden, lengths, ids, prompt)


def _slot_mean(hidden: Tensor, lengths: Tensor, slots: int) -> Tensor:
    """Mean hidden state [B, D] over the slots, which end each row."""
    columns = lengths[:, None] - slots + torch.arange(slots, device=hidden.device)  # [B, S]
    return hidden.gather(1, columns[:, :, None].expand(-1, -1, hidden.shape[2])).float().mean(dim=1)


def _text_mean(hidden: Tensor, lengths: Tensor, ids: PromptIds, prompt: PromptName | None) -> Tensor:
    """Mean hidden state [B, D] over the text's own tokens; over the prefix where the text is empty."""
    ends = lengths - len(ids.suffixes[prompt] if prompt else ())
    starts = torch.clamp(torch.full_like(ends, len(ids.prefix)), max=ends - 1).clamp(min=0)
    columns = torch.arange(hidden.shape[1], device=hidden.device)
    inside = ((columns >= starts[:, None]) & (columns < ends[:, None])).float()  # [B, L]
    return torch.einsum("bld,bl->bd", hidden.float(), inside) / inside.sum(dim=1, keepdim=True).clamp(min=1)

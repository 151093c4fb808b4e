"""Attention on a CPU that copies no shared keys and values, and reads a mask only for the rows that need one.

With grouped queries (GQA) and a mask, transformers repeats keys and values up to the number of query heads, and
autograd keeps the copies; PyTorch's CPU kernel reads the shared heads in place. In a joint sequence, moreover, only
the prompts need a mask: the text before them is plainly causal, and a causal kernel skips the half that no row sees.

Measured by ``benchmarks/fast_paths.py`` on one core, texts of 128 tokens: without it a step takes 1.04 to 1.08 times as
long.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "llama2vec_lean_sdpa"
_STOCK = "sdpa"
_CAUSAL_COLUMNS = "llama2vec_causal_columns"


def mark_causal_columns(mask: Tensor, columns: int) -> Tensor:
    """Mark a mask [B, 1, L, L] whose first ``columns`` rows are plainly causal; only this module reads the mark."""
    setattr(mask, _CAUSAL_COLUMNS, columns)
    return mask


def use_lean_attention(model: Any) -> None:
    """Switch a (peft) model on a CPU from PyTorch's attention to this one; :func:`use_stock_attention` undoes it."""
    if model.config._attn_implementation == _STOCK and model.device.type == "cpu":
        _register()
        model.set_attn_implementation(NAME)


def use_stock_attention(model: Any) -> None:
    """Undo :func:`use_lean_attention`; a model with another kernel keeps it."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation(_STOCK)


@cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[_STOCK])


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    """Attend, with the arguments that transformers gives every kernel; returns [B, L, H, D]."""
    shared = query.shape[1] != key.shape[1]
    if not shared or attention_mask is None or others.get("position_bias") is not None or query.shape[2] == 1:
        # Here the stock function makes no copies either.
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        return found
    options: dict[str, Any] = {
        "dropout_p": others.get("dropout", 0.0),
        "scale": others.get("scaling"),
        "enable_gqa": True,
    }
    text, columns = getattr(attention_mask, _CAUSAL_COLUMNS, 0), query.shape[2]
    if not 1 < text < columns == key.shape[2]:
        out = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, **options)
        return out.transpose(1, 2).contiguous(), None
    causal = scaled_dot_product_attention(
        query[:, :, :text], key[:, :, :text], value[:, :, :text], is_causal=True, **options
    )
    masked = scaled_dot_product_attention(
        query[:, :, text:], key, value, attn_mask=attention_mask[:, :, text:], **options
    )
    return torch.cat([causal.transpose(1, 2), masked.transpose(1, 2)], dim=1), None

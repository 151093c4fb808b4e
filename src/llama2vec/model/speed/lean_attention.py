"""Attention on a CPU: no copies of shared keys and values, masks only where they matter, gradients in float32.

With grouped queries (GQA) and a mask, transformers repeats keys and values up to the number of query heads, and
autograd keeps the copies; PyTorch's CPU kernel reads the shared heads in place. In a joint sequence, moreover, only
the prompts need a mask: the text before them is plainly causal, and a causal kernel skips the half that no row sees.

Of texts as short as those of a training step, PyTorch's CPU kernel computes gradients several times faster in float32
than in bfloat16 (20 texts of 100 tokens, nine heads: 9 against 39 ms; 60 of 33: 5 against 30; texts of 512: 29 against
28). Here the backward pass reads the rounded tensors in float32. Gradients are the more exact for it.

Measured by ``benchmarks/speed/fast_paths.py`` on one core, texts of 128 tokens: without it a step takes 1.04 to 1.08
times as long.
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
_SHORT = 512  # Keys; of more, bfloat16 gradients are the faster ones.


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
    heads_shared = query.shape[1] != key.shape[1]
    stock_copies = heads_shared and attention_mask is not None and query.shape[2] > 1
    unusual = others.get("position_bias") is not None or others.get("softcap") is not None
    if unusual or not (stock_copies or _gains_in_float32(query, key, value)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        return found
    dropout, scale = others.get("dropout", 0.0), others.get("scaling")
    if attention_mask is None:
        causal = others.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        return _kernel(query, key, value, None, causal, dropout, scale).transpose(1, 2).contiguous(), None
    text, columns = getattr(attention_mask, _CAUSAL_COLUMNS, 0), query.shape[2]
    if not 1 < text < columns == key.shape[2]:
        out = _kernel(query, key, value, attention_mask, False, dropout, scale)
        return out.transpose(1, 2).contiguous(), None
    causal_rows = _kernel(query[:, :, :text], key[:, :, :text], value[:, :, :text], None, True, dropout, scale)
    masked_rows = _kernel(query[:, :, text:], key, value, attention_mask[:, :, text:], False, dropout, scale)
    return torch.cat([causal_rows.transpose(1, 2), masked_rows.transpose(1, 2)], dim=1), None


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, dropout: float, scale: float | None
) -> Tensor:
    """Attend with queries [B, H, L, D], keys and values [B, K, S, D], K a divisor of H; returns [B, H, L, D]."""
    if dropout == 0.0 and _gains_in_float32(query, key, value):
        out: Tensor = _FloatGradients.apply(query, key, value, mask, causal, scale)  # type: ignore[no-untyped-call]
        return out
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout, scale=scale, enable_gqa=True
    )


def _gains_in_float32(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.shape[2] > 1
        and key.shape[2] <= _SHORT
        and query.shape[-1] == value.shape[-1]
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad or value.requires_grad)
    )


class _FloatGradients(torch.autograd.Function):
    """PyTorch's CPU kernel in bfloat16, its backward pass in float32."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None
    ) -> Tensor:
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        ctx.save_for_backward(query, key, value, mask, out, sums)
        ctx.causal, ctx.scale = causal, scale
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, out, sums = ctx.saved_tensors
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradients[0].float(), query.float(), key.float(), value.float(), out.float(), sums, 0.0, ctx.causal,
            attn_mask=None if mask is None else mask.float(), scale=ctx.scale,
        )  # fmt: skip
        of_query, of_key, of_value = (gradient.to(query.dtype) for gradient in found)
        return of_query, of_key, of_value, None, None, None

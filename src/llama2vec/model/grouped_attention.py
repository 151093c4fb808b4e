"""Attention under a mask that does not copy keys and values for every query head that shares them.

With grouped queries (GQA) transformers repeats keys and values up to the number of query heads whenever there is a
mask, and autograd keeps the copies. PyTorch's kernel for CPUs reads the shared heads where they are: less memory, less
time, the same numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "llama2vec_grouped_sdpa"
_STOCK = "sdpa"


def use_grouped_attention(model: Any) -> bool:
    """Let a model attend without copies, where it has grouped queries, runs on a CPU and uses PyTorch's attention.

    Args:
        model: A (peft) model of transformers; changed in place. :func:`use_stock_attention` undoes it.

    Returns:
        Whether anything changed.
    """
    body, config = _plain(model), model.config
    heads = getattr(config, "num_attention_heads", 1)
    shared = getattr(config, "num_key_value_heads", None) or heads
    if config._attn_implementation != _STOCK or shared == heads or model.device.type != "cpu" or not _kernel_groups():
        return False
    _register()
    body.set_attn_implementation(NAME)
    return True


def use_stock_attention(model: Any) -> None:
    """Undo :func:`use_grouped_attention`; other kernels stay as they are."""
    if model.config._attn_implementation == NAME:
        _plain(model).set_attn_implementation(_STOCK)


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@cache
def _kernel_groups() -> bool:
    """Tell whether this PyTorch's kernel keeps the shared heads as they are; older ones copy them too."""
    query, key = torch.ones(1, 2, 2, 8, requires_grad=True), torch.ones(1, 1, 2, 8, requires_grad=True)
    out = scaled_dot_product_attention(query, key, key, attn_mask=torch.zeros(1, 1, 2, 2), enable_gqa=True)
    kept: Any = getattr(out.grad_fn, "_saved_key", None)
    return kept is not None and kept.shape[1] == 1


@cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[_STOCK])


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend; the arguments are those that transformers gives every kernel, the result is [B, L, H, D]."""
    if attention_mask is None or others.get("position_bias") is not None or query.shape[2] == 1:
        # Without a mask the stock function makes no copies either.
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return found
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), None

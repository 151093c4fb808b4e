"""Attention on a CPU that copies no shared keys and values, and reads a mask only for the rows that need one.

With grouped queries (GQA) and a mask, transformers repeats keys and values up to the number of query heads, and
autograd keeps the copies; PyTorch's CPU kernel can read the shared heads in place. In a joint sequence, moreover, only
the prompts need a mask: the text before them is plainly causal, and a causal kernel skips the half that no row sees.

Measured by ``python benchmarks/speed.py --only adapt-vs-without-lean-attention``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "llama2vec_lean_sdpa"
_STOCK = "sdpa"
_CAUSAL_COLUMNS = "llama2vec_causal_columns"


def mark_causal_columns(mask: Tensor, columns: int) -> Tensor:
    """Mark a mask [B, 1, L, L] whose first ``columns`` rows are plainly causal and see no other column.

    Only the attention of this module reads the mark.

    Returns:
        The same mask.
    """
    setattr(mask, _CAUSAL_COLUMNS, columns)
    return mask


def use_lean_attention(model: Any) -> bool:
    """Switch a (peft) model that runs on a CPU and uses PyTorch's attention to this one.

    Returns:
        Whether it was switched; :func:`use_stock_attention` switches it back.
    """
    body, config = _plain(model), model.config
    heads = getattr(config, "num_attention_heads", 1)
    shared = getattr(config, "num_key_value_heads", None) or heads
    if (
        config._attn_implementation != _STOCK
        or model.device.type != "cpu"
        or (shared != heads and not _kernel_groups())
    ):
        return False
    _register()
    body.set_attn_implementation(NAME)
    return True


def use_stock_attention(model: Any) -> None:
    """Undo :func:`use_lean_attention`; a model with another kernel keeps it."""
    if model.config._attn_implementation == NAME:
        _plain(model).set_attn_implementation(_STOCK)


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _autograd() -> Iterator[None]:
    """Record gradients, also when the first pass through a model is a validation that switched them off."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield


@cache
@_autograd()
def _kernel_groups() -> bool:
    """Return whether this PyTorch's kernel keeps the shared heads as they are; older ones copy them too."""
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
    """Attend, with the arguments that transformers gives every kernel; returns [B, L, H, D]."""
    if attention_mask is None or others.get("position_bias") is not None or query.shape[2] == 1:
        # Without a mask, the stock function makes no copies either.
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return found
    text, columns = getattr(attention_mask, _CAUSAL_COLUMNS, 0), query.shape[2]
    # Under autocast the number formats differ here; the stock function converts them.
    plain = not dropout and query.dtype == key.dtype == value.dtype and not torch.is_autocast_enabled("cpu")
    if plain and 1 < text < columns == key.shape[2] and _kernel_splits():
        whole: Tensor = _PartlyCausal.apply(query, key, value, attention_mask, text, scaling)  # type: ignore[no-untyped-call]
        return whole, None
    grouped = query.shape[1] != key.shape[1]
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=grouped
    )
    return out.transpose(1, 2).contiguous(), None


class _PartlyCausal(torch.autograd.Function):
    """Attention [B, L, H, D] whose first rows are causal among themselves and whose other rows read a mask."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, text: int, scale: float | None
    ) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        ahead = [tensor[:, :, :text] for tensor in (query, key, value)]
        first, first_sums = attend(*ahead, 0.0, True, scale=scale)
        second, second_sums = attend(
            query[:, :, text:], key, value, 0.0, False, attn_mask=mask[:, :, text:], scale=scale
        )
        out = torch.cat([first.transpose(1, 2), second.transpose(1, 2)], dim=1)
        ctx.save_for_backward(query, key, value, mask, out, first_sums, second_sums)
        ctx.text, ctx.scale = text, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, out, first_sums, second_sums = ctx.saved_tensors
        text = ctx.text
        back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        gradient, out = gradients[0].transpose(1, 2), out.transpose(1, 2)
        ahead = [tensor[:, :, :text] for tensor in (gradient, query, key, value, out)]
        of_text, *of_ahead = back(*ahead, first_sums, 0.0, True, scale=ctx.scale)
        of_prompts, of_key, of_value = back(
            gradient[:, :, text:], query[:, :, text:], key, value, out[:, :, text:], second_sums, 0.0, False,
            attn_mask=mask[:, :, text:], scale=ctx.scale,
        )  # fmt: skip
        for whole, part in zip((of_key, of_value), of_ahead, strict=True):
            whole[:, :, :text] += part
        of_query = torch.cat([of_text.transpose(1, 2), of_prompts.transpose(1, 2)], dim=1).transpose(1, 2)
        return of_query, of_key, of_value, None, None, None


@cache
@_autograd()
def _kernel_splits() -> bool:
    """Return whether this PyTorch has the kernel that :class:`_PartlyCausal` calls, with the stock results."""
    text, columns = 3, 5
    mask = torch.full((1, 1, columns, columns), torch.finfo(torch.float32).min).triu(1)
    start = torch.linspace(-1, 1, 4 * columns * 8).reshape(1, 4, columns, 8)
    given = [start[:, heads].clone().requires_grad_() for heads in (slice(0, 2), slice(2, 3), slice(3, 4))]
    query, key, value = given
    stock = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    expected = [stock, *torch.autograd.grad(stock.square().sum(), given)]
    try:
        out = _PartlyCausal.apply(*given, mask, text, None)  # type: ignore[no-untyped-call]
        found = [out, *torch.autograd.grad(out.square().sum(), given)]
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    return all(torch.allclose(left, right, rtol=1e-4, atol=1e-5) for left, right in zip(found, expected, strict=True))

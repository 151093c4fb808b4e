"""LoRA layers that add their update inside the frozen matrix product.

peft computes ``W x + s B (A x)`` with a cast, a product, a scaling and an addition per adapter, each a pass over
[tokens, width], and runs the adapters in float32 beside a bfloat16 backbone. Here ``addmm`` accumulates the update into
the output of the frozen product in the backbone's number format; the float32 adapter weights stay the master copy.
Results agree with peft's up to rounding.

Measured by ``benchmarks/fast_paths.py`` on one core, texts of 128 tokens: a step takes 1.13 times as long without it in
float32 and 1.46 times in bfloat16, with 1.3 times the memory (``benchmarks/speed.py``).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor


class _FusedLora(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down_cast, up_cast = down.to(x.dtype), up.to(x.dtype)
        low = flat @ down_cast.T  # [N, r]
        out = torch.nn.functional.linear(flat, weight, bias)
        out.addmm_(low, up_cast.T, alpha=scale)
        ctx.save_for_backward(flat, weight, down, up, low)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, down, up, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        scaled = (gradient @ up.to(gradient.dtype)).mul_(ctx.scale)  # [N, r]
        grad_down = (scaled.T @ flat).to(down.dtype) if ctx.needs_input_grad[3] else None
        grad_up = (gradient.T @ low).mul_(ctx.scale).to(up.dtype) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient @ weight
            grad_x.addmm_(scaled, down.to(gradient.dtype))
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_down, grad_up, None


def fuse_lora(model: Any) -> list[torch.nn.Module]:
    """Give the LoRA layers of a peft model the fused forward.

    Anything but plain training of one adapter (dropout, DoRA, several adapters, merged weights, a trainable or
    quantized base) still runs peft's own code.

    Returns:
        The changed layers; ``del layer.forward`` restores one.
    """
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if type(module) is Linear and "forward" not in module.__dict__]
    for layer in layers:
        layer.forward = MethodType(_fused_forward, layer)
    return layers


def _fused_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    name = None if args or kwargs else plain_adapter(self, x)
    if name is None:
        return type(self).forward(self, x, *args, **kwargs)
    base = self.base_layer
    return _FusedLora.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
    )


def plain_adapter(layer: Any, x: Tensor) -> str | None:
    """Return the adapter's name if the layer does plain training of one adapter on ``x``, else None."""
    adapters = getattr(layer, "active_adapters", None)
    name: str | None = adapters[0] if adapters and len(adapters) == 1 else None
    if name is None or name not in getattr(layer, "lora_A", ()):
        return None
    plain = (
        not (layer.disable_adapters or layer.merged)
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and name not in layer.lora_variant
        and not layer.base_layer.weight.requires_grad
        and type(layer.base_layer) is torch.nn.Linear
        and x.dtype == layer.base_layer.weight.dtype
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not torch.is_autocast_enabled(x.device.type)
    )
    return name if plain else None

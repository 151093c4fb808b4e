"""LoRA layers, feed-forward blocks and norms that make fewer passes over memory and keep less for the backward pass.

*LoRA.* peft computes ``W x + s B (A x)`` with a cast, a product, a scaling and an addition per adapter, each a pass
over [tokens, width], and runs the adapters in float32 beside a bfloat16 backbone. Here ``addmm`` accumulates the update
into the output of the frozen product in the backbone's number format; float32 adapter weights stay the master copy.

*Blocks and norms.* For ``down(silu(gate) * up)`` autograd keeps four tensors of the inner width per token, two of which
are one cheap multiplication away from the others; for a root-mean-square norm, a normalized copy of the input. Here
the backward pass recomputes them.

Results agree up to rounding. Measured on one core, texts of 128 tokens (``benchmarks/speed/fast_paths.py``, memory by
``benchmarks/speed/ratios.py``): without fused LoRA a step takes 1.13 times as long in float32 and 1.46 times in
bfloat16, with 1.3 times the memory; without lean blocks and norms 1.04 and 1.09 times, with 1.12 times the memory.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

_PROBE_ROWS = 3


class _Projection(torch.autograd.Function):
    """y = h W^T + b + s (h A^T) B^T, where h is x, or in a gated block silu(x) * up, which is not kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor | None, weight: Tensor, bias: Tensor | None,
        lora_down: Tensor | None, lora_up: Tensor | None, scale: float,
    ) -> Tensor:  # fmt: skip
        flat = x.reshape(-1, x.shape[-1])
        flat_up = None if up is None else up.reshape(flat.shape)
        inner = flat if flat_up is None else silu(flat).mul_(flat_up)  # [N, I]
        out = torch.nn.functional.linear(inner, weight, bias)
        low = None
        if lora_down is not None and lora_up is not None:
            low = inner @ lora_down.to(inner.dtype).T  # [N, r]
            out.addmm_(low, lora_up.to(inner.dtype).T, alpha=scale)
        ctx.save_for_backward(flat, flat_up, weight, lora_down, lora_up, low)
        ctx.scale, ctx.shape = scale, x.shape
        # Not a view, which the model could not change in place, as Gemma 3n does.
        return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], out.shape[-1]])  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, up, weight, lora_down, lora_up, low = ctx.saved_tensors
        needs = ctx.needs_input_grad
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        grad_inner = gradient @ weight if needs[0] or needs[1] else None  # [N, I]
        activated = None if up is None else silu(x)
        grad_weight = grad_bias = grad_down = grad_up = of_up = None
        if needs[2]:
            grad_weight = gradient.T @ (x if activated is None else activated * up)
        if needs[3]:
            grad_bias = gradient.sum(dim=0)
        if low is not None:
            scaled = (gradient @ lora_up.to(gradient.dtype)).mul_(ctx.scale)  # [N, r]
            if grad_inner is not None:
                grad_inner.addmm_(scaled, lora_down.to(gradient.dtype))
            if needs[4]:
                grad_down = (scaled.T @ (x if activated is None else activated * up)).to(lora_down.dtype)
            if needs[5]:
                grad_up = (gradient.T @ low).mul_(ctx.scale).to(lora_up.dtype)
        if activated is not None and grad_inner is not None:
            of_up = activated.mul_(grad_inner).view(ctx.shape)
            grad_inner = torch.ops.aten.silu_backward(grad_inner.mul_(up), x)
        of_x = None if grad_inner is None else grad_inner.view(ctx.shape)
        return of_x, of_up, grad_weight, grad_bias, grad_down, grad_up, None


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
    return type(self).forward(self, x, *args, **kwargs) if name is None else _projected(self, x, None, name)


def _projected(linear: Any, x: Tensor, up: Tensor | None, adapter: str | None) -> Tensor:
    """Apply a linear layer, or a LoRA layer with one adapter, to x or to silu(x) * up."""
    base = _base_of(linear)
    lora: tuple[Any, ...] = (None, None, 0.0)
    if adapter is not None:
        lora = linear.lora_A[adapter].weight, linear.lora_B[adapter].weight, linear.scaling[adapter]
    out: Tensor = _Projection.apply(x, up, base.weight, base.bias, *lora)  # type: ignore[no-untyped-call]
    return out


def only_adapter(layer: Any) -> str | None:
    """Return the adapter's name if a layer has one active adapter without peft's extras, else None."""
    adapters = getattr(layer, "active_adapters", None)
    name: str | None = adapters[0] if adapters and len(adapters) == 1 else None
    if name is None or name not in getattr(layer, "lora_A", ()):
        return None
    plain = (
        not (layer.disable_adapters or layer.merged)
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and name not in layer.lora_variant
        and type(layer.base_layer) is torch.nn.Linear
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
    )
    return name if plain else None


def plain_adapter(layer: Any, x: Tensor) -> str | None:
    """Return the adapter's name if the layer does plain training of one adapter on ``x``, else None."""
    name = only_adapter(layer)
    plain = (
        name is not None
        and not layer.base_layer.weight.requires_grad
        and x.dtype == layer.base_layer.weight.dtype
        and not torch.is_autocast_enabled(x.device.type)
    )
    return name if plain else None


class _RootMeanSquareNorm(torch.autograd.Function):
    """y = x / rms(x) * w, in float32; keeps x and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = x.float()
        squares = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_()
        inverse = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()  # [..., 1]
        ctx.save_for_backward(x, weight, inverse)
        normed = (exact * inverse).to(x.dtype)
        out: Tensor = normed.mul_(weight) if normed.dtype == weight.dtype else normed * weight
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        gradient, exact = gradients[0].float(), x.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            products = gradient * exact
            grad_weight = products.mul_(inverse).reshape(-1, x.shape[-1]).sum(dim=0).to(weight.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            weighted = gradient * weight.float()
            # One number a row: how far the gradient points along x.
            along = torch.linalg.vecdot(weighted, exact).unsqueeze(-1)
            along = along.mul_(inverse * inverse * inverse).div_(-x.shape[-1])
            grad_x = weighted.mul_(inverse).addcmul_(exact, along).to(x.dtype)
        return grad_x, grad_weight, None


def keep_less(model: Any) -> list[torch.nn.Module]:
    """Give the gated feed-forward blocks and root-mean-square norms of a model their lean forms.

    A module changes only if both forms agree on a probe, which excludes other activations, norms with an offset and
    anything else an architecture may do.

    Returns:
        The changed modules; ``del module.forward`` restores one.
    """
    changed = []
    for module in model.modules():
        lean = _lean_form(module)
        if lean is not None and _same_on_a_probe(module, lean):
            module.forward = lean
            changed.append(module)
    return changed


def _lean_form(module: Any) -> Any:
    if "forward" in module.__dict__:
        # Another library's hooks, such as accelerate's offloading, already replace this forward.
        return None
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return MethodType(_gated_forward, module)
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and hasattr(module, "weight"):
        return MethodType(_norm_forward, module)
    return None


@torch.no_grad()
def _same_on_a_probe(module: Any, lean: Any) -> bool:
    weight = module.weight if hasattr(module, "variance_epsilon") else _base_of(module.gate_proj).weight
    if not weight.is_floating_point():  # Four bits, packed
        return False
    width = weight.shape[-1]
    # The probe draws no random numbers, which would change a seeded training.
    probe = torch.linspace(-2, 2, _PROBE_ROWS * width, device=weight.device).reshape(_PROBE_ROWS, width)
    probe = probe.to(weight.dtype)
    was_training = module.training
    module.eval()
    try:
        own, other = module(probe), lean(probe)
    finally:
        module.train(was_training)
    room = 1e-5 if weight.dtype == torch.float32 else 2e-2
    return bool(torch.allclose(own.float(), other.float(), rtol=room, atol=room * float(own.float().abs().max())))


def _base_of(linear: Any) -> Any:
    return getattr(linear, "base_layer", linear)


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    gate, up, linear = self.gate_proj(x), self.up_proj(x), self.down_proj
    if not torch.is_autocast_enabled(x.device.type) and gate.dtype == _base_of(linear).weight.dtype:
        name = plain_adapter(linear, gate)
        if name is not None or type(linear) is torch.nn.Linear:
            return _projected(linear, gate, up, name)
    out: Tensor = linear(silu(gate) * up)
    return out


def _norm_forward(self: Any, x: Tensor) -> Tensor:
    out: Tensor = _RootMeanSquareNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
    return out

"""Decoder layers compiled by torch.compile, for training on a GPU and for long training on a CPU in bfloat16.

A small model spends much of its time in passes over memory that compute little: norms, rotations, activations, casts;
on a GPU also in starting kernels. The compiler fuses them. All layers share their code, so one compilation serves them
all, for every batch size and length.

On a GPU LoRA's own products would be passes over [tokens, width] more. There each layer computes ``W + s B A`` once per
batch, [out, in], and multiplies by the sum; autograd carries the gradient back to A and B. That gradient is a product
as large as the layer's own, which a CPU feels: there A and B multiply the tokens.

Measured on two cores with native bfloat16, 48 pairs of at most 32 and 96 tokens, SmolLM2-135M with LoRA
(docs/lab-notes.md): 8.7 s a step as they are, 7.9 s compiled with summed weights, 6.7 s compiled with A and B apart.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llama2vec.errors import MissingDependencyError
from llama2vec.model.backbone import layer_list
from llama2vec.model.speed.lean_layers import only_adapter

VARIANTS = 16
"""Compilations of one piece of code: with and without gradients of its input and weights, one row and several."""


@contextmanager
def compiled_layers(model: Any, *, backend: str = "inductor") -> Iterator[None]:
    """Train a (peft) model with compiled decoder layers; on exit it is as before.

    Args:
        model: A (peft) model of transformers on its device; changed in place.
        backend: What torch.compile calls.

    Raises:
        MissingDependencyError: The device needs a compiler that is not there.
    """
    check_compiler(model.device.type)
    forwards = compiled_forwards(model, backend)
    layers = [layer for layer, _ in forwards]
    changed = _change_lora(layers, model.device.type) if hasattr(model, "peft_config") else []
    with room_for_variants(), without_hooks(layers):
        for layer, forward in forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in forwards:
                del layer.forward
            for linear, own in changed:
                linear.__class__ = own


@contextmanager
def without_hooks(layers: Sequence[Any]) -> Iterator[None]:
    """Take off the hooks within layers, at each of which the compiler would stop; the layers keep their own.

    transformers hangs them there to collect attention weights, and they do nothing unless these are asked for.
    """
    hooked = [
        (module, module._forward_hooks)
        for layer in layers
        for module in layer.modules()
        if module is not layer and module._forward_hooks
    ]
    try:
        for module, _ in hooked:
            module._forward_hooks = OrderedDict()
        yield
    finally:
        for module, hooks in hooked:
            module._forward_hooks = hooks


@contextmanager
def room_for_variants() -> Iterator[None]:
    """Let the compiler keep :data:`VARIANTS` of one piece of code, in all threads: backward may use others."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, VARIANTS)
    try:
        yield
    finally:
        torch._dynamo.config.recompile_limit = limit


def compiled_forwards(model: Any, backend: str) -> list[tuple[Any, Any]]:
    """Return each layer that runs its own code, with its forward as its first call will compile it."""
    layers = [layer for layer in layer_list(model) or () if "forward" not in layer.__dict__]
    return [(layer, torch.compile(layer.forward, dynamic=True, backend=backend)) for layer in layers]


def check_compiler(device: str) -> None:
    """Raise a MissingDependencyError if a device needs a compiler that is not there."""
    if device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise MissingDependencyError("model.compile needs a C++ compiler on a CPU; install g++, or set it to false")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise MissingDependencyError("model.compile needs triton on a GPU; pip install triton, or set it to false")


def _change_lora(layers: list[Any], device: str) -> list[tuple[Any, type]]:
    """Give plain LoRA layers a forward that suits the compiler and the device; return them with their own classes."""
    from peft.tuners.lora.layer import Linear

    changed: list[tuple[Any, type]] = []
    modules: list[Any] = [module for layer in layers for module in layer.modules() if hasattr(module, "lora_A")]
    for module in modules:
        if type(module) is Linear and only_adapter(module) is not None:
            changed.append((module, Linear))
            # The class and not the instance: the compiler recognizes equal code by it.
            module.__class__ = _low_rank_linear() if device == "cpu" else _summed_linear()
    return changed


@cache
def _summed_linear() -> type:
    from peft.tuners.lora.layer import Linear

    class SummedLinear(Linear):  # type: ignore[misc]
        """y = (W + s B A) x + b."""

        def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            if self.disable_adapters:
                return torch.nn.functional.linear(x, self.base_layer.weight, self.base_layer.bias)
            base, name = self.base_layer, self.active_adapter[0]
            update = self.lora_B[name].weight @ self.lora_A[name].weight  # [out, in]
            weight = (base.weight + self.scaling[name] * update).to(base.weight.dtype)
            return torch.nn.functional.linear(x, weight, base.bias)

    return SummedLinear


@cache
def _low_rank_linear() -> type:
    from peft.tuners.lora.layer import Linear

    class LowRankLinear(Linear):  # type: ignore[misc]
        """y = W x + b + s B (A x), all in the number format of x."""

        def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
            out: Tensor = torch.nn.functional.linear(x, self.base_layer.weight, self.base_layer.bias)
            if self.disable_adapters:
                return out
            name = self.active_adapter[0]
            low = torch.nn.functional.linear(x, self.lora_A[name].weight.to(out.dtype))  # [..., r]
            update = torch.nn.functional.linear(low, self.lora_B[name].weight.to(out.dtype))
            return out.add(update, alpha=self.scaling[name])

    return LowRankLinear

"""Faster paths through a stock model in training, and the one switch that turns all of them on."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

# Options of mallopt (malloc.h of glibc) with the value for training, and the one at which glibc's own adjustment ends.
_MALLOC_OPTIONS = {"M_MMAP_THRESHOLD": (-3, 1 << 30, 32 << 20), "M_TRIM_THRESHOLD": (-1, (1 << 31) - 4097, 64 << 20)}


@contextmanager
def fast_paths(model: Any, *, compiled: bool = False) -> Iterator[None]:
    """Train a model on its faster paths; on exit it computes exactly as transformers and peft wrote it.

    Gradients agree with the stock paths up to rounding; a path is taken only by modules that support it. Measured by
    ``benchmarks/speed/fast_paths.py``: a step takes 1.19 times as long without them in float32, 1.53 times in bfloat16.

    Args:
        model: A (peft) model of transformers on its device; changed in place.
        compiled: Compile the layers instead (:mod:`llama2vec.model.speed.compiled`).

    Raises:
        MissingDependencyError: ``compiled``, and this machine has no compiler.
    """
    # Not at the top: a query reader, which lies in this package, starts without transformers.
    from llama2vec.model.speed.compiled import compiled_layers
    from llama2vec.model.speed.lean_attention import use_lean_attention, use_stock_attention
    from llama2vec.model.speed.lean_layers import fuse_lora, keep_less

    every_weight = all(weight.requires_grad for weight in model.parameters())
    changed: list[torch.nn.Module] = []
    around: AbstractContextManager[None] = nullcontext()
    try:
        use_lean_attention(model)
        if compiled:
            around = compiled_layers(model)
        else:
            changed += fuse_lora(model)
            changed += keep_less(model)
            if every_weight and model.device.type == "cpu":
                around = freed_memory_kept()
        with around:
            yield
    finally:
        for module in changed:
            del module.forward
        use_stock_attention(model)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep large freed blocks for the next step; other C libraries are left alone.

    In full fine-tuning, gradients as large as the weights come and go with each step. Memory that went back to the
    system must be zeroed by it again.

    Measured on two cores: 11.4 to 17.0 s a step before, 9.8 to 10.2 s after, with 500,000 page faults a step before
    and 20 after (docs/lab-notes.md). Under LoRA it gains nothing.
    """
    try:
        library: Any = ctypes.CDLL("libc.so.6")
        set_option, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    for option, in_training, _ in _MALLOC_OPTIONS.values():
        set_option(option, in_training)
    try:
        yield
    finally:
        for option, _, usual in _MALLOC_OPTIONS.values():
            set_option(option, usual)
        trim(0)

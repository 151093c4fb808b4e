"""The memory of a training on each device: weights, gradients, optimizer, activations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from llama2vec.config import ModelSettings
from llama2vec.training.settings import OptimizerSettings

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # Bytes, or "max"
_FLOAT32 = 4
_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""A weight in NF4: 4 bits, 8 bits a block of 64 for its scale, and 32 bits for the scales of 256 blocks."""
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "moe_topk", "moe_k")  # As configs name it


class ModelShape(NamedTuple):
    """Sizes of a model, from its config alone."""

    parameters: int  # all of them
    body: int  # parameters of the layers
    linear_width: int  # sum over the layers' linear projections of inputs + outputs: LoRA parameters per rank
    layers: int
    width: int  # D
    vocabulary: int  # V
    unquantized: int = 0  # parameters of the layers that stay as they are in 4 bits: norms, experts in one tensor
    idle: int = 0  # parameters of the experts that a token does not pass
    experts: int = 0  # experts that a token passes, over all layers

    @property
    def inner(self) -> float:
        """Roughly, the width of all projections of a layer together that a token passes."""
        return self.passed / self.layers / self.width

    @property
    def passed(self) -> int:
        """Parameters of the layers that a token passes."""
        return self.body - self.idle

    @property
    def kept(self) -> float:
        """Numbers that the backward pass keeps for each cell: the inputs of all projections, norms and activations.

        Each expert keeps its own copy of what it reads, and its result.
        """
        return self.layers * (6 * self.width + 1.3 * self.inner) + 2 * self.width * self.experts


def shape_of(model: Any) -> ModelShape:
    """Return the sizes of a causal LM, whose weights may be on the meta device."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    parameters = sum(weight.numel() for weight in model.parameters())
    outside = table.numel() + (head.numel() if head is not table else 0)
    inside = [module for module in model.base_model.modules() if type(module).__name__ in ("Linear", "Conv1D")]
    width = sum(sum(module.weight.shape) for module in inside)
    body, linear = parameters - outside, sum(module.weight.numel() for module in inside)
    (rows, columns), layers = table.shape, int(model.config.num_hidden_layers)
    idle, passed = _experts_of(model)
    return ModelShape(parameters, body, width, layers, columns, rows, max(0, body - linear), idle, passed)


def _experts_of(model: Any) -> tuple[int, int]:
    """Return how many parameters of experts a token does not pass, and how many experts it passes over all layers."""
    given = [getattr(model.config, name, None) for name in _EXPERTS_PER_TOKEN]
    chosen = next((max(found) if isinstance(found, list) else found for found in given if found), 0)
    if not chosen:
        return 0, 0
    # The experts of a layer are one tensor [experts, out, in]; a convolution's weights have three dimensions, too.
    experts = [
        weight
        for module in model.modules()
        if "Conv" not in type(module).__name__
        for weight in module.parameters(recurse=False)
        if weight.dim() == 3 and weight.shape[0] >= chosen
    ]
    idle = sum(int(weight.numel() * (1 - chosen / weight.shape[0])) for weight in experts)
    return idle, chosen * len(experts) // 2  # One tensor leads into the experts of a layer, one out of them


def usable_memory() -> int:
    """Return the bytes of main memory that this process may use: the machine's, or its container's if fewer."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # Not on every system
        return 0
    text = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else ""
    return min(found, int(text)) if text.isdigit() else found


class TrainingMemory(NamedTuple):
    """Bytes on one device."""

    weights: float  # with LoRA, those of the adapters included
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of them together."""
        return sum(self)

    def __str__(self) -> str:
        names = zip(self._fields, self, strict=True)
        return ", ".join(f"{name} {size / 2**30:,.2f}" for name, size in names) + " GiB on each device"


def training_memory(
    shape: ModelShape,
    model: ModelSettings,
    optimizer: OptimizerSettings,
    *,
    cells: float,
    itemsize: int,
    processes: int,
) -> TrainingMemory:
    """Return what a training takes, without the loss and what the libraries themselves hold.

    ``cells`` are the tokens and padding whose activations are held at once; ``itemsize`` is that of the format in which
    the model computes.
    """
    lora = model.lora.rank > 0
    depth = model.lora.depth if lora else 1.0
    trained = model.lora.rank * shape.linear_width * depth if lora else shape.parameters
    outside = shape.parameters - shape.body
    weights = shape.parameters * float(itemsize if lora else _FLOAT32)
    if model.quantization == "nf4":
        plain = outside + shape.unquantized
        weights = (shape.parameters - plain) * _NF4_BYTES + plain * itemsize
    weights += trained * _FLOAT32 if lora else 0
    gradients, moments = trained * _FLOAT32, 2 * trained * _FLOAT32
    kept = shape.layers * shape.width + shape.kept / shape.layers if model.gradient_checkpointing else shape.kept
    activations = cells * kept * itemsize * depth
    if optimizer.sharding == "fsdp":
        # Two layers are gathered at a time, since one is fetched while the other computes, and what is outside.
        gathered = (2 * shape.body / shape.layers + outside) * itemsize
        share = 0.0 if optimizer.offload else 1 / processes
        # The gradients of one layer are whole until they are shared out.
        whole = 0.0 if lora else (shape.body / shape.layers + outside) * _FLOAT32
        weights, gradients, moments = weights * share + gathered, gradients * share + whole, moments * share
    return TrainingMemory(weights, gradients, moments, activations)

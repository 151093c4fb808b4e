"""What an estimate rests on: a model's sizes, and how fast this machine multiplies matrices."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from llama2vec.model.backbone import load_model_config, quiet_transformers

_TIMING_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model, from its config alone.

    Attributes:
        parameters: All of them.
        body: Parameters of the layers, which every token passes.
        linear_width: Sum over the layers' linear projections of inputs + outputs: LoRA parameters per rank.
        layers: Number of layers.
        width: D.
        vocabulary: V.
    """

    parameters: int
    body: int
    linear_width: int
    layers: int
    width: int
    vocabulary: int


def model_shape(name: str) -> ModelShape:
    """Count a model's parameters without loading, or even holding, any of them."""
    from transformers import AutoModelForCausalLM

    config = load_model_config(name)
    with torch.device("meta"), quiet_transformers():
        model = AutoModelForCausalLM.from_config(config)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    parameters = sum(weight.numel() for weight in model.parameters())
    outside = table.numel() + (head.numel() if head is not table else 0)
    inside = [module for module in model.base_model.modules() if type(module).__name__ in ("Linear", "Conv1D")]
    width = sum(sum(module.weight.shape) for module in inside)
    return ModelShape(
        parameters, parameters - outside, width, int(config.num_hidden_layers), table.shape[1], table.shape[0]
    )


def measured_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return how many floating point operations a second a matrix product reaches here."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best, until = float("inf"), time.monotonic() + _TIMING_SECONDS
    while time.monotonic() < until or best == float("inf"):
        begin = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best

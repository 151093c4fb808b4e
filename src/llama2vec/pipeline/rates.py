"""How fast this machine reads and trains a model: some of its layers with random weights, timed for a moment.

A machine's rate in large matrix products says little about a layer: one with AMX reaches a third of it in reading and a
tenth in training, one without AMX two thirds and a half (docs/lab-notes.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from statistics import median
from typing import Any

import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import one_line
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import Backbone, attention_kernel, decoder, keep_lowest_layers
from llama2vec.model.batching import cells_per_batch
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.source import resolve_model
from llama2vec.model.speed import fast_paths
from llama2vec.model.tokenizer import load_model_config
from llama2vec.training.memory import ModelShape, shape_of
from llama2vec.training.saving import training_precision

_VOCABULARY = 64
_LEAST_LAYERS, _BYTES = 2, 64 * 2**20
"""Layers are timed until their weights take so many bytes: more than a processor's caches hold between two passes."""
_SHARE = 0.4
"""Assumed share of the rate of large matrix products, where only that is known: 0.39 to 0.48 in float32 on a CPU."""
_SECONDS, _LEAST_TURNS = 0.4, 3
_MOST_OPERATIONS = {"cpu": 2e11, "cuda": 1e14}  # In one forward pass of the timed layers
_DRAWN = 10_000_000
"""Weights up to which each is drawn; rows of larger ones, for which that would take seconds, are all alike."""


def forward_operations(shape: ModelShape, tokens: float, length: float) -> float:
    """Operations of one forward pass over the layers: two per token and weight that it passes, and causal attention."""
    return tokens * (2 * shape.passed + 2 * shape.layers * length * shape.width)


def model_shape(name: str, layers: int = 0) -> ModelShape:
    """Count the parameters of a model, or of its lowest layers, without loading, or even holding, any of them."""
    return shape_of(_without_weights(name, layers))


def cache_width(name: str) -> int:
    """Return how many numbers a model keeps of each token that it has read, to write the next one."""
    config = load_model_config(name).get_text_config()
    heads = int(getattr(config, "num_attention_heads", 0))
    if not heads:  # It keeps one state for all tokens
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * shared * width)


def _without_weights(name: str, layers: int, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    config = load_model_config(name)
    with torch.device("meta"), quiet_transformers():
        model = AutoModelForCausalLM.from_config(config, **options)
        keep_lowest_layers(model, layers)
    return model


class Rates:
    """FLOP/s that reading and training reach, by the length of the texts; each is measured once.

    Args:
        settings: The model, its device and format.
        dtype: Format that the model computes in.
        device: Where it computes.
        flops: FLOP/s of large matrix products on the machine of the run; None = measure here.
    """

    def __init__(
        self, settings: ModelSettings, dtype: torch.dtype, device: torch.device, flops: float | None = None
    ) -> None:
        self._settings, self._dtype, self._device, self._flops = settings, dtype, device, flops
        self._known: dict[tuple[int, bool | None], float] = {}
        self._failed = ""  # Why layers could not be timed

    @cached_property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        return model_shape(self._settings.name, self._settings.layers)

    @property
    def described(self) -> str:
        """What the estimates so far rest on."""
        if self._flops:
            rate = f"{self._flops / 1e9:,.0f} GFLOP/s in matrix products, as --flops says"
            return f"{rate}, of which training and encoding reach {_SHARE:.0%}"
        if self._failed:
            rate = f"{self._products / 1e9:,.0f} GFLOP/s in matrix products, measured here"
            return (
                f"{rate}, of which {_SHARE:.0%} are assumed; the layers cannot be timed by themselves ({self._failed})"
            )
        names = {None: "reading", True: "training adapters", False: "training every weight"}
        known = sorted(self._known.items(), key=str)
        found = [f"{names[kind]} {rate / 1e9:,.0f} (up to {length} tokens)" for (length, kind), rate in known]
        return f"GFLOP/s of layers with random weights, measured here: {', '.join(found)}"

    @property
    def are_measured(self) -> bool:
        """Whether the rates so far are those of layers, timed here."""
        return not (self._flops or self._failed)

    def reading(self, length: float) -> float:
        """FLOP/s of a forward pass over texts of so many tokens."""
        return self._rate(length, None)

    def training(self, length: float, settings: ModelSettings) -> float:
        """FLOP/s of forward and backward pass, of adapters or of every weight as the settings say."""
        return self._rate(length, settings.lora.rank > 0)

    def _rate(self, length: float, adapters: bool | None) -> float:
        if self._flops:
            return self._flops * _SHARE
        # A power of two, so that stages of similar lengths share a measurement.
        key = (2 ** max(3, round(length - 1).bit_length()), adapters)
        if key not in self._known and not self._failed:
            try:
                self._known[key] = self._measured(min(key[0], round(length)), adapters)
            # Layers may need what their model gives them; that a plan is rougher must not keep it from being shown.
            except Exception as error:
                self._failed = one_line(error)
        if self._failed:
            self._known.setdefault(key, _SHARE * self._products)
        return self._known[key]

    @cached_property
    def _products(self) -> float:
        """FLOP/s of a large matrix product here."""
        size = 8192 if self._device.type == "cuda" else 1024
        left, right = (torch.ones(size, size, dtype=self._dtype, device=self._device) for _ in range(2))
        return 2.0 * size**3 / _seconds(lambda: (left @ right)[None])

    def _measured(self, length: int, adapters: bool | None) -> float:
        settings = self._settings
        if adapters is not None:
            lora = settings.lora.model_copy(
                update={"rank": max(settings.lora.rank, 1) if adapters else 0, "depth": 1.0}
            )
            settings = settings.model_copy(update={"lora": lora})
        model, shape = _random_layers(settings, self.shape, self._dtype, self._device, trained=adapters is False)
        a_row = forward_operations(shape, length, length)
        most = _MOST_OPERATIONS.get(self._device.type, _MOST_OPERATIONS["cpu"])
        rows = max(1, min(cells_per_batch(self._device.type) // length, int(most / a_row)))
        ids = torch.randint(_VOCABULARY, (rows, length), device=self._device)
        if adapters is None:
            with torch.no_grad():
                return rows * a_row / _seconds(lambda: decoder(model)(input_ids=ids, use_cache=False)[0])
        trained = model
        if adapters:
            backbone = Backbone(model, None, resolve_model(settings.name))
            trained = add_lora(backbone, settings.lora, [], 0)
        # The gradient of the lowest layer's input is part of every other layer's work.
        model.get_input_embeddings().weight.requires_grad_(True)
        mixed = training_precision(settings)[1]
        around: Callable[[], AbstractContextManager[Any]] = (
            (lambda: torch.autocast(self._device.type, torch.bfloat16)) if mixed else nullcontext
        )

        def step() -> torch.Tensor:
            with around():
                states: torch.Tensor = decoder(trained)(input_ids=ids, use_cache=False)[0]
            states.float().square().mean().backward()  # type: ignore[no-untyped-call]
            return states

        with fast_paths(trained):
            seconds = _seconds(step)
        return (2 if adapters else 3) * rows * a_row / seconds


def _random_layers(
    settings: ModelSettings, has: ModelShape, dtype: torch.dtype, device: torch.device, *, trained: bool
) -> tuple[Any, ModelShape]:
    """Return a model with the lowest layers of the one that ``has`` this shape, random weights and few words."""
    config = load_model_config(settings.name)
    fitting = int(_BYTES / (has.body / has.layers * dtype.itemsize))
    count = min(max(_LEAST_LAYERS, fitting), has.layers)
    kernel = attention_kernel(settings.name, config, settings.attention)
    model = _without_weights(
        settings.name, count, dtype=torch.float32 if trained else dtype, attn_implementation=kernel
    )
    table = model.get_input_embeddings().weight
    model.set_input_embeddings(torch.nn.Embedding(_VOCABULARY, table.shape[1], device="meta", dtype=table.dtype))
    if model.get_output_embeddings() is not None:
        # Nothing calls the head; as large as the table's, it would take longer to fill than the layers to time.
        head = torch.nn.Linear(table.shape[1], _VOCABULARY, bias=False, device="meta", dtype=table.dtype)
        model.set_output_embeddings(head)
    shape = shape_of(model)
    model.to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() <= _DRAWN:
                weight.normal_(0, 0.02)
            else:
                weight.copy_(torch.randn(weight.shape[-1], device=device).mul(0.02).expand_as(weight))
        for buffer in model.buffers():
            buffer.fill_(1 if buffer.dtype.is_floating_point else 0)
    return model.eval(), shape


def _seconds(turn: Callable[[], torch.Tensor]) -> float:
    """Return the median time of a turn, once the first one has prepared the kernels."""

    def timed() -> float:
        begun = time.perf_counter()
        turn()[0, 0, 0].item()  # Waits for the device
        return time.perf_counter() - begun

    timed()
    found, until = [timed()], time.monotonic() + _SECONDS
    while len(found) < _LEAST_TURNS or time.monotonic() < until:
        found.append(timed())
    return median(found)

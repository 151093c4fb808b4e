"""Encode with compiled layers: where the texts ahead pay for the compiler, and only if the states stay the same.

On a CPU that multiplies bfloat16 natively, less than half of the stock layers' time goes into matrix products. The
compiler (torch.compile) fuses the rest: norms, rotations, activations, sums. All layers share their code, so one
compilation of a few seconds serves them all, for every batch size and length. ``benchmarks/speed/ratios.py`` measures
it beside sentence-transformers.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from llama2vec.errors import MissingDependencyError, one_line
from llama2vec.model.backbone import Backbone, decoder, layer_list
from llama2vec.model.device import cpu_has_bfloat16
from llama2vec.model.pooling import last_hidden_states
from llama2vec.model.speed.compiled import check_compiler, compiled_forwards, room_for_variants, without_hooks

logger = logging.getLogger(__name__)

Compile = bool | Literal["auto"]

_PAYS_FROM = 5e12
"""Weights times tokens of a call from which ``auto`` compiles. On two cores with AMX the 106 million weights of
SmolLM2-135M take 0.2 to 0.3 ms a token; a third of that, over 50,000 tokens, is what the compiler takes: 6 s."""
_PROBE = (3, 24)  # Rows and columns; sizes of 1 would be compiled by themselves.
_PROBED_LAYERS = 2
_ROOM = {torch.float32: 1e-4}  # Between states, as a share of their length; vectors agree within 1e-5.
_ROOM_OF_HALF = 0.1  # 16 bits, at the median position: both ways are about 0.015 from float32 in SmolLM2-135M.


class CompiledReading:
    """Reads batches of one model with compiled layers, or with its own where that is not worth it or fails.

    Layers are replaced only while a batch is read, so the model can be trained, saved and shared as ever.

    Args:
        backbone: The model, in evaluation mode.
        wanted: ``auto`` = for long work on a CPU with native bfloat16 and a C++ compiler; True = for every call with
            several texts; False = never.
        backend: What torch.compile calls.
    """

    def __init__(self, backbone: Backbone, wanted: Compile = False, *, backend: str = "inductor") -> None:
        self._backbone, self.wanted, self._backend = backbone, wanted, backend
        self._forwards: list[tuple[Any, Any]] = []  # Each layer with its compiled forward
        self._is_tried = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled code stays in its process: another one compiles its own.
        return type(self), (self._backbone, self.wanted)

    def is_on(self, texts: int, tokens: float) -> bool:
        """Tell whether so many texts, with so many tokens in all, are read with compiled layers.

        The first call that is worth it compiles. The answer depends on the work alone, so that work which is resumed
        gives the same bits.
        """
        if texts < 2 or not (self._pays(tokens) if self.wanted == "auto" else self.wanted):
            return False
        if not self._is_tried:
            self._is_tried = True
            self._compile()
        return bool(self._forwards)

    def states(self, input_ids: Tensor, layers: int, *, compiled: bool) -> tuple[Tensor, ...]:
        """Return the last layers' hidden states of a batch [B, L], as :func:`last_hidden_states` does."""
        body = decoder(self._backbone.model)
        if compiled and self._forwards and min(input_ids.shape) > 1:
            try:
                with self._installed():
                    return last_hidden_states(body, input_ids, layers)
            # A longer batch may need a mask, whose code is compiled then; compilers fail in errors of many kinds.
            except Exception as error:
                self._give_up(one_line(error))
        return last_hidden_states(body, input_ids, layers)

    def _pays(self, tokens: float) -> bool:
        model = self._backbone.model
        if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not cpu_has_bfloat16():
            return False
        return self._weights * tokens >= _PAYS_FROM

    @cached_property
    def _weights(self) -> int:
        """The weights of all layers, which every token is multiplied by."""
        layers = layer_list(self._backbone.model) or ()
        return sum(weight.numel() for layer in layers for weight in layer.parameters())

    def _compile(self) -> None:
        name, started = self._backbone.source.name, time.monotonic()
        try:
            check_compiler(self._backbone.model.device.type)
        except MissingDependencyError as error:
            self._give_up(str(error))
            return
        forwards = compiled_forwards(self._backbone.model, self._backend)
        if not forwards:
            self._give_up(f"{type(self._backbone.model).__name__} has no plain list of layers")
            return
        logger.info("%s: compiling its layers once, for long encodings (model.compile = false leaves it out)", name)
        size = self._backbone.model.get_input_embeddings().weight.shape[0]
        probe = torch.arange(_PROBE[0] * _PROBE[1], device=self._backbone.model.device).remainder(size).view(_PROBE)
        stock = self.states(probe, _PROBED_LAYERS, compiled=False)
        self._forwards = forwards
        found = self.states(probe, _PROBED_LAYERS, compiled=True)
        apart = max(_distance(one, other) for one, other in zip(stock, found, strict=True))
        if self._forwards and not apart <= _ROOM.get(stock[0].dtype, _ROOM_OF_HALF):
            self._give_up(f"they give other states ({apart:.1e} of their length apart)")
        if self._forwards:
            logger.info("%s: layers compiled in %.0f s", name, time.monotonic() - started)

    @contextmanager
    def _installed(self) -> Iterator[None]:
        import torch._inductor.config

        forwards = self._forwards
        # One process compiles: the few pieces of one layer are not worth starting others.
        with (
            warnings.catch_warnings(),
            room_for_variants(),
            without_hooks([layer for layer, _ in forwards]),
            torch._inductor.config.patch(compile_threads=1),
        ):
            warnings.simplefilter("ignore")
            try:
                for layer, forward in forwards:
                    layer.forward = forward
                yield
            finally:
                for layer, _ in forwards:
                    layer.__dict__.pop("forward", None)

    def _give_up(self, reason: str) -> None:
        self._forwards = []
        level = logging.WARNING if self.wanted is True else logging.INFO
        logger.log(level, "%s: encodes without compiled layers: %s", self._backbone.source.name, reason)


def _distance(one: Tensor, other: Tensor) -> float:
    """Return how far apart states [B, L, D] are, as a share of their length: at most, or in 16 bits at the median.

    A deep model has single positions, such as those of odd tokens, where 16 bits give any direction, whoever reads.
    """
    is_exact = one.dtype == torch.float32
    one, other = one.detach().double(), other.detach().double()
    length = one.norm(dim=-1).clamp(min=1e-9)  # The state of a padding token may be zero.
    apart = (one - other).norm(dim=-1) / length
    return float(apart.max() if is_exact else apart.median())

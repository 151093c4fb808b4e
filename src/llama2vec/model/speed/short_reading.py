"""Read a question or a few, again and again, with packed weights; long work is read as ever.

The first short call of a process is read as ever too, because packing takes as long as some twenty questions save.
``benchmarks/speed/short_texts.py`` measures the gain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from llama2vec.errors import one_line
from llama2vec.model.backbone import Backbone, decoder, layer_list
from llama2vec.model.device import cpu_has_bfloat16
from llama2vec.model.pooling import last_hidden_states
from llama2vec.model.speed.packed_layers import decoder_parts, packed_products, plain_decoder
from llama2vec.model.speed.plain_decoder import PlainDecoder, Product

logger = logging.getLogger(__name__)

MOST_TOKENS = 256  # In one call, padding included: a question or a few
_LEAST_WEIGHTS, _MOST_WEIGHTS = 10_000_000, 1_000_000_000  # A smaller model is fast; of a larger one, copies are large.
_PAYS_FROM = 2  # Short calls


class ShortReading:
    """Reads short calls of one model on a CPU that multiplies bfloat16 natively, from the second one on.

    The model itself stays as it is; weights that changed are packed again.

    Args:
        backbone: The model, in evaluation mode.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._calls = 0
        self._packed_from: tuple[tuple[int, int], ...] = ()
        self._decoder: PlainDecoder | None = None
        self._products: list[tuple[Module, Product]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        # Packed weights stay in their process: another one packs its own.
        return type(self), (self._backbone,)

    @property
    def is_possible(self) -> bool:
        """Whether the model, as it is loaded, may be read here."""
        model = self._backbone.model
        is_fast = model.device.type == "cpu" and model.dtype == torch.bfloat16 and cpu_has_bfloat16()
        # Adapters change what a product is, and training changes the weights.
        if not is_fast or model.training or hasattr(model, "peft_config"):
            return False
        return _LEAST_WEIGHTS <= sum(weight.numel() for weight in self._weights()) <= _MOST_WEIGHTS

    def is_on(self, tokens: int) -> bool:
        """Tell whether a call with so many tokens, padding included, is read here; the second one packs the weights."""
        if tokens > MOST_TOKENS or not self.is_possible:
            return False
        self._calls += 1
        if self._calls < _PAYS_FROM:
            return False
        self._pack_again()
        return bool(self._decoder or self._products)

    def parts(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]] | None:
        """Return what the decoder of short calls is made of, as :func:`decoder_parts`; None where there is none.

        All short calls that follow are read here.
        """
        if not self.is_possible:
            return None
        self._calls = _PAYS_FROM
        self._pack_again()
        return decoder_parts(self._backbone.model, MOST_TOKENS) if self._decoder else None

    def states(self, input_ids: Tensor, layers: int) -> tuple[Tensor, ...]:
        """Return the last layers' hidden states of a batch [B, L], as :func:`last_hidden_states` does."""
        if self._decoder:
            return self._decoder.states(input_ids, layers)
        with self._installed():
            return last_hidden_states(decoder(self._backbone.model), input_ids, layers)

    def _pack_again(self) -> None:
        """Pack the weights unless they are those that are packed."""
        present = tuple((weight.data_ptr(), weight._version) for weight in self._weights())
        if present != self._packed_from:
            self._pack()
            self._packed_from = present

    def _weights(self) -> Iterator[Tensor]:
        """Yield the weights of all layers; several times faster than ``parameters()``, which looks for doubles."""
        modules: list[Module] = list(layer_list(self._backbone.model) or ())
        while modules:
            module = modules.pop()
            yield from (weight for weight in module._parameters.values() if weight is not None)
            modules.extend(part for part in module._modules.values() if part is not None)

    def _pack(self) -> None:
        model = self._backbone.model
        self._decoder, self._products = None, []
        try:
            self._decoder = plain_decoder(model, MOST_TOKENS)
            if self._decoder is None:
                self._products = list(packed_products(model))
        # The packed products are private to PyTorch: another release may lack them, or name them otherwise.
        except Exception as error:
            name = self._backbone.source.name
            logger.info("%s: reads questions without packed weights: %s", name, one_line(error))

    @contextmanager
    def _installed(self) -> Iterator[None]:
        try:
            for module, product in self._products:
                module.forward = product  # type: ignore[method-assign]
            yield
        finally:
            for module, _ in self._products:
                module.__dict__.pop("forward", None)

"""A decoder of Llama's plan, as SmolLM2, Llama, Mistral and Qwen2 are, that reads a question in few steps.

It is made of tensors alone: one product for queries, keys and values; sums and activations inside the products; no
calls between modules. Its products take a weight as it lies in a file, or packed: PyTorch rearranges a bfloat16 weight
for the processor's matrix units (AMX, AVX-512) in every product. For the 20 tokens of a question that takes longer than
the product itself; a packed copy is rearranged once, and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention

_ROWS = 32  # Rows that the layout of packed weights suits best; any number can be read.

NormOf = Callable[[Tensor], Tensor]


class Product:
    """``f(x W^T + b)`` with the weights [out, in] of one linear layer, or of several side by side."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> None:
        self._weight, self._bias, self._activation = weight, bias, activation
        self._is_packed = False

    def pack(self) -> Product:
        """Rearrange the weights for the processor, once; return the product."""
        if not self._is_packed:
            self._weight, self._is_packed = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS), True
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product of ``x`` [..., in], [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._activation, [], "")
        return out

    def with_other(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        """Return ``x W^T + b`` plus (``add``) or times (``mul``) another tensor of its shape."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, operation)
        return out


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm in one step."""

    weight: Tensor  # [D]
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x`` [..., D] at a root mean square of 1, times the weight."""
        return rms_norm(x, self.weight.shape, self.weight, self.epsilon)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer's sizes and scales."""

    width: int  # Width of a head
    heads: int  # Heads of the queries
    turned: int  # Heads of queries and keys, which the rotary tables turn
    scale: float | None  # Factor of the attention scores; None = 1 / sqrt(width)
    epsilon: float | None  # For the first norm; None = not a plain norm
    second_epsilon: float | None


class PlainLayer:
    """A decoder layer of Llama's plan: attention and a gated block, each after a norm and added to what it read.

    Args:
        tensors: Weights [out, in] ``attention_in`` (queries, keys and values), ``attention_out``, ``gate``, ``up``,
            ``down``; biases as ``NAME.bias``; weights of the norms, ``norm`` and ``second_norm``.
        facts: The rest.
        norms: Called in the place of the two norms, unless these are plain ones.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], facts: LayerFacts, norms: tuple[NormOf, NormOf] | None = None
    ) -> None:
        def product(name: str, activation: str = "none") -> Product:
            return Product(tensors[name], tensors.get(f"{name}.bias"), activation)

        if norms is None:
            assert facts.epsilon is not None
            assert facts.second_epsilon is not None
            norms = Norm(tensors["norm"], facts.epsilon), Norm(tensors["second_norm"], facts.second_epsilon)
        self._facts, (self._norm, self._second_norm) = facts, norms
        self._attention_in, self._attention_out = product("attention_in"), product("attention_out")
        self._gate, self._up, self._down = product("gate", "swish"), product("up"), product("down")

    def pack(self) -> PlainLayer:
        """Pack all products; return the layer."""
        for product in (self._attention_in, self._attention_out, self._gate, self._up, self._down):
            product.pack()
        return self

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the layer's output [B, L, D]; ``cos`` and ``sin`` [1, L, 1, W], half of it negated, turn the heads."""
        facts = self._facts
        heads = self._attention_in(self._norm(x)).view(x.shape[0], x.shape[1], -1, facts.width)  # [B, L, H, W]
        turned, values = heads[:, :, : facts.turned], heads[:, :, facts.turned :].transpose(1, 2)
        turned = torch.addcmul(turned * cos, turned.roll(facts.width // 2, -1), sin).transpose(1, 2)
        queries, keys = turned[:, : facts.heads], turned[:, facts.heads :]
        read = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=facts.scale, enable_gqa=True)
        x = self._attention_out.with_other(read.transpose(1, 2).flatten(2), x, "add")
        normed = self._second_norm(x)
        return self._down.with_other(self._up.with_other(normed, self._gate(normed), "mul"), x, "add")


@dataclass(frozen=True, slots=True)
class PlainDecoder:
    """A decoder of Llama's plan that reads batches of rows padded on the right, as long as its rotary tables."""

    embedding: Tensor  # [V, D]
    layers: list[PlainLayer]
    norm: NormOf
    tables: tuple[Tensor, Tensor]  # [1, C, 1, W] cosines and sines, half of these negated

    def pack(self) -> None:
        """Pack the products of all layers."""
        for layer in self.layers:
            layer.pack()

    def states(self, input_ids: Tensor, layers: int) -> tuple[Tensor, ...]:
        """Return the last layers' hidden states of a batch [B, L], as ``pooling.last_hidden_states`` does."""
        cos, sin = (table[:, : input_ids.shape[1]] for table in self.tables)
        found = [embedding(input_ids, self.embedding)]
        for layer in self.layers:
            found.append(layer(found[-1], cos, sin))
        found[-1] = self.norm(found[-1])
        return tuple(found[-layers:])

"""Products with packed weights, and a whole decoder of Llama's plan that reads with them.

PyTorch rearranges a bfloat16 weight for the processor's matrix units (AMX, AVX-512) in every product. For the 20 tokens
of a question that takes longer than the product itself; a packed copy is rearranged once.

A decoder of Llama's plan, as SmolLM2, Llama, Mistral and Qwen2 are, also runs in fewer steps: one product for queries,
keys and values; sums and activations inside the products; no calls between modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from llama2vec.model.backbone import decoder, layer_list
from llama2vec.model.pooling import last_hidden_states

_PROBE = (2, 24)  # Rows and columns
_ROOM = 2e-2  # Between outputs, as a share of their length; bfloat16 itself rounds at 4e-3.
_ROWS = 32  # Rows that the layout of packed weights suits best; any number can be read.
_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION, _GATED = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


class Product:
    """``f(x W^T + b)`` with the weights of one linear layer, or of several side by side, packed for the processor."""

    def __init__(self, *linears: Linear, activation: str = "none") -> None:
        weight = torch.cat([part.weight.detach() for part in linears])
        biases = [part.bias.detach() for part in linears if part.bias is not None]
        if len(biases) not in (0, len(linears)):
            biases = [
                weight.new_zeros(part.out_features) if part.bias is None else part.bias.detach() for part in linears
            ]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._bias = torch.cat(biases) if biases else None
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product of ``x`` [..., in], [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._activation, [], "")
        return out

    def with_other(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        """Return ``x W^T + b`` plus (``add``) or times (``mul``) another tensor of its shape."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, operation)
        return out


def packed_products(model: Any) -> list[tuple[Linear, Product]]:
    """Return each plain bfloat16 product in a model's layers with its packed form, where both agree on a probe."""
    found = []
    for module in (layer_list(model) or torch.nn.ModuleList()).modules():
        if type(module) is Linear and "forward" not in module.__dict__ and module.weight.dtype == torch.bfloat16:
            product = Product(module)
            probe = torch.linspace(-2, 2, 3 * module.in_features, dtype=torch.bfloat16).view(3, -1)
            if _alike(product(probe), linear(probe, module.weight, module.bias)):
                found.append((module, product))
    return found


class PlainDecoder:
    """A decoder of Llama's plan that reads batches of at most ``columns`` tokens a row, padded on the right.

    Args:
        body: The decoder of transformers.
        layers: Its layers.
        columns: Most tokens of a row.
    """

    def __init__(self, body: Any, layers: list[PackedLayer], columns: int) -> None:
        self.layers = layers
        self._embedding, self._norm = body.embed_tokens.weight, _Norm(body.norm)
        rows = self._embedding[:1, None]
        cos, sin = body.rotary_emb(rows, position_ids=torch.arange(columns)[None])  # [1, C, W]
        half = cos.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        self.tables = cos.unsqueeze(2), signed.unsqueeze(2)  # [1, C, 1, W]

    def states(self, input_ids: Tensor, layers: int) -> tuple[Tensor, ...]:
        """Return the last layers' hidden states of a batch [B, L], as :func:`last_hidden_states` does."""
        cos, sin = (table[:, : input_ids.shape[1]] for table in self.tables)
        found = [torch.nn.functional.embedding(input_ids, self._embedding)]
        for layer in self.layers:
            found.append(layer(found[-1], cos, sin))
        found[-1] = self._norm(found[-1])
        return tuple(found[-layers:])


@torch.inference_mode()
def plain_decoder(model: Any, columns: int) -> PlainDecoder | None:
    """Return a model's decoder with packed weights; None if the model does not compute as Llama does.

    One batch is read by the model itself. What goes into each layer must be what the plan says, bit for bit, and what
    comes out must be what the packed layer gives, up to rounding.
    """
    body, layers = decoder(model), list(layer_list(model) or ())
    is_known = all(hasattr(body, name) for name in ("embed_tokens", "norm", "rotary_emb"))
    if not layers or not is_known or not all(map(_has_plan, layers)):
        return None
    # A window shorter than a row would not show in the probe.
    window = getattr(model.config, "sliding_window", None) or columns
    if min(window, getattr(model.config, "max_position_embeddings", 0)) < columns:
        return None
    size = body.embed_tokens.weight.shape[0]
    probe = torch.arange(_PROBE[0] * _PROBE[1]).remainder(size).view(_PROBE)
    calls, last = _read(model, layers, probe)
    found = PlainDecoder(body, [PackedLayer(layer) for layer in layers], columns)
    cos, sin = (table[:, : _PROBE[1]] for table in found.tables)
    expected = torch.nn.functional.embedding(probe, body.embed_tokens.weight)
    for call, layer in zip(calls, found.layers, strict=True):
        if not (call.is_plain and torch.equal(call.given, expected)):
            return None
        if not _alike(layer(call.given, cos, sin), call.returned):
            return None
        expected = call.returned
    return found if _alike(found._norm(expected), last) else None


@dataclass(frozen=True, slots=True)
class _Call:
    """What a layer of transformers was called with, and what it returned."""

    given: Tensor  # [B, L, D]
    returned: Any  # [B, L, D] in a layer of the plan
    is_plain: bool  # Without a mask


def _read(model: Any, layers: list[Module], probe: Tensor) -> tuple[list[_Call], Tensor]:
    """Read a batch with the model itself; return the calls of its layers, and the final states."""
    calls: list[_Call] = []

    def note(_: Module, given: tuple[Any, ...], named: dict[str, Any], returned: Any) -> None:
        is_plain = len(given) == 1 and named.get("attention_mask") is None and isinstance(returned, Tensor)
        calls.append(_Call(given[0] if given else named["hidden_states"], returned, is_plain))

    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        (last,) = last_hidden_states(decoder(model), probe, 1)
    finally:
        for handle in handles:
            handle.remove()
    return calls, last


def _has_plan(layer: Module) -> bool:
    parts = dict(layer.named_children())
    if set(parts) != _PARTS or "forward" in layer.__dict__:
        return False
    attention, block = dict(parts["self_attn"].named_children()), dict(parts["mlp"].named_children())
    products = [attention.pop(name, None) for name in _ATTENTION] + [block.pop(name, None) for name in _GATED]
    plain = all(type(part) is Linear and part.weight.dtype == torch.bfloat16 for part in products)
    return plain and not attention and set(block) <= {"act_fn"} and hasattr(parts["self_attn"], "head_dim")


def _alike(found: Tensor, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    apart, length = (found.double() - expected.double()).norm(dim=-1), expected.double().norm(dim=-1)
    return bool((apart <= _ROOM * length.clamp(min=1e-9)).all())


class _Norm:
    """A norm in one step where it is a plain root-mean-square norm, else the module itself."""

    def __init__(self, module: Any) -> None:
        self._module, self._weight = module, getattr(module, "weight", None)
        self._epsilon = getattr(module, "variance_epsilon", None)
        self._is_plain = False
        if self._epsilon is not None and self._weight is not None and self._weight.dtype == torch.bfloat16:
            probe = torch.linspace(-2, 2, 3 * len(self._weight), dtype=torch.bfloat16).view(3, -1)
            self._is_plain = True
            self._is_plain = _alike(self(probe), module(probe))

    def __call__(self, x: Tensor) -> Tensor:
        if self._is_plain and self._weight is not None:
            return rms_norm(x, self._weight.shape, self._weight, self._epsilon)
        out: Tensor = self._module(x)
        return out


class PackedLayer:
    """A decoder layer of Llama's plan: attention and a gated block, each after a norm and added to what it read."""

    def __init__(self, layer: Any) -> None:
        attention, block = layer.self_attn, layer.mlp
        self._norm, self._second_norm = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self._width, self._scale = attention.head_dim, getattr(attention, "scaling", None)
        self._heads = attention.q_proj.out_features // self._width
        self._turned = self._heads + attention.k_proj.out_features // self._width
        self._attention_in = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._attention_out = Product(attention.o_proj)
        self._gate, self._up = Product(block.gate_proj, activation="swish"), Product(block.up_proj)
        self._down = Product(block.down_proj)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the layer's output [B, L, D]; ``cos`` and ``sin`` [1, L, 1, W], half of it negated, turn the heads."""
        heads = self._attention_in(self._norm(x)).view(x.shape[0], x.shape[1], -1, self._width)  # [B, L, H, W]
        turned, values = heads[:, :, : self._turned], heads[:, :, self._turned :].transpose(1, 2)
        turned = torch.addcmul(turned * cos, turned.roll(self._width // 2, -1), sin).transpose(1, 2)
        queries, keys = turned[:, : self._heads], turned[:, self._heads :]
        read = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=self._scale, enable_gqa=True)
        x = self._attention_out.with_other(read.transpose(1, 2).flatten(2), x, "add")
        normed = self._second_norm(x)
        return self._down.with_other(self._up.with_other(normed, self._gate(normed), "mul"), x, "add")

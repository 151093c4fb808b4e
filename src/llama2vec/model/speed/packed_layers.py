"""Find out whether a model computes as Llama does, and pack its weights: of the whole decoder, or of its products."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import embedding, linear

from llama2vec.model.backbone import decoder, layer_list
from llama2vec.model.pooling import last_hidden_states
from llama2vec.model.speed.plain_decoder import LayerFacts, Norm, NormOf, PlainDecoder, PlainLayer, Product

_PROBE = (2, 24)  # Rows and columns
_ROOM = 2e-2  # Between outputs, as a share of their length; bfloat16 itself rounds at 4e-3.
_ROOM_OF_ONE = 0.1
"""Between the outputs of a whole layer at a single position, while half of them stay within :data:`_ROOM`. Odd tokens
round further: up to 0.04 in an adapted SmolLM2-135M on a processor without AMX. A layer of another plan differs
everywhere."""
_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION, _GATED = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def packed_products(model: Any) -> list[tuple[Linear, Product]]:
    """Return each plain bfloat16 product in a model's layers with its packed form, where both agree on a probe."""
    found = []
    for module in (layer_list(model) or torch.nn.ModuleList()).modules():
        if type(module) is Linear and "forward" not in module.__dict__ and module.weight.dtype == torch.bfloat16:
            product = Product(module.weight.detach(), None if module.bias is None else module.bias.detach()).pack()
            probe = torch.linspace(-2, 2, 3 * module.in_features, dtype=torch.bfloat16).view(3, -1)
            if _alike(product(probe), linear(probe, module.weight, module.bias)):
                found.append((module, product))
    return found


@torch.inference_mode()
def plain_decoder(model: Any, columns: int) -> PlainDecoder | None:
    """Return a model's decoder with packed weights, for rows of at most ``columns`` tokens.

    One batch is read by the model itself. What goes into each layer must be what the plan says, bit for bit, and what
    comes out must be what the packed layer gives, up to rounding. None if the model does not compute as Llama does.
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
    plain = [PlainLayer(_tensors(layer), _facts(layer), _norms(layer)).pack() for layer in layers]
    found = PlainDecoder(body.embed_tokens.weight, plain, _norm(body.norm), _tables(body, columns))
    cos, sin = (table[:, : _PROBE[1]] for table in found.tables)
    expected = embedding(probe, body.embed_tokens.weight)
    for call, layer in zip(calls, plain, strict=True):
        if not (call.is_plain and torch.equal(call.given, expected)):
            return None
        if not _alike(layer(call.given, cos, sin), call.returned, _ROOM_OF_ONE):
            return None
        expected = call.returned
    return found if _alike(found.norm(expected), last) else None


@torch.inference_mode()
def decoder_parts(model: Any, columns: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]] | None:
    """Return what a model's plain decoder is made of, so that :func:`decoder_of_parts` makes it again.

    The model has one: :func:`plain_decoder` has found it.

    Returns:
        Its tensors by name, and the facts of each layer, the last entry those of the norm at the end. None if a norm is
        no plain one.
    """
    body, layers = decoder(model), list(layer_list(model) or ())
    facts, top, (cos, sin) = [_facts(layer) for layer in layers], _norm(body.norm), _tables(body, columns)
    if not isinstance(top, Norm) or any(None in (one.epsilon, one.second_epsilon) for one in facts):
        return None
    tensors = {"embedding": body.embed_tokens.weight.detach(), "norm": top.weight, "cos": cos, "sin": sin}
    for number, layer in enumerate(layers):
        tensors |= {f"{number}.{name}": tensor for name, tensor in _tensors(layer).items()}
    return tensors, [*map(asdict, facts), {"epsilon": top.epsilon}]


def _tensors(layer: Any) -> dict[str, Tensor]:
    """Return the tensors of a layer, as :class:`PlainLayer` takes them."""
    attention, block = layer.self_attn, layer.mlp
    products = {
        "attention_in": (attention.q_proj, attention.k_proj, attention.v_proj),
        "attention_out": (attention.o_proj,),
        "gate": (block.gate_proj,),
        "up": (block.up_proj,),
        "down": (block.down_proj,),
    }
    norms = {"norm": layer.input_layernorm, "second_norm": layer.post_attention_layernorm}
    found = {name: norm.weight.detach() for name, norm in norms.items() if isinstance(_norm(norm), Norm)}
    for name, parts in products.items():
        weights = [part.weight.detach() for part in parts]
        found[name] = weights[0] if len(weights) == 1 else torch.cat(weights)
        if any(part.bias is not None for part in parts):
            biases = [part.weight.new_zeros(part.out_features) if part.bias is None else part.bias for part in parts]
            found[f"{name}.bias"] = torch.cat([bias.detach() for bias in biases])
    return found


def _facts(layer: Any) -> LayerFacts:
    attention, (first, second) = layer.self_attn, _norms(layer)
    heads = attention.q_proj.out_features // attention.head_dim
    return LayerFacts(
        width=attention.head_dim,
        heads=heads,
        turned=heads + attention.k_proj.out_features // attention.head_dim,
        scale=getattr(attention, "scaling", None),
        epsilon=first.epsilon if isinstance(first, Norm) else None,
        second_epsilon=second.epsilon if isinstance(second, Norm) else None,
    )


def _norms(layer: Any) -> tuple[NormOf, NormOf]:
    return _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)


def _norm(module: Any) -> NormOf:
    """Return a norm in one step where a module is a plain root-mean-square norm, else the module."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if epsilon is None or weight is None or weight.dtype != torch.bfloat16:
        return module  # type: ignore[no-any-return]
    found = Norm(weight.detach(), float(epsilon))
    probe = torch.linspace(-2, 2, 3 * len(weight), dtype=torch.bfloat16).view(3, -1)
    return found if _alike(found(probe), module(probe)) else module


def _tables(body: Any, columns: int) -> tuple[Tensor, Tensor]:
    """Return the rotary tables of the first ``columns`` positions [1, C, 1, W]: cosines, and sines, half negated."""
    cos, sin = body.rotary_emb(body.embed_tokens.weight[:1, None], position_ids=torch.arange(columns)[None])
    half = cos.shape[-1] // 2
    return cos.unsqueeze(2), torch.cat((-sin[..., :half], sin[..., half:]), dim=-1).unsqueeze(2)


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


def _alike(found: Tensor, expected: Any, room_of_one: float = _ROOM) -> bool:
    """Tell whether outputs agree: half of the positions within :data:`_ROOM`, and each within ``room_of_one``."""
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    apart, length = (found.double() - expected.double()).norm(dim=-1), expected.double().norm(dim=-1)
    share = apart / length.clamp(min=1e-9)
    return bool(share.median() <= _ROOM and share.max() <= room_of_one)

"""The low-rank difference between an encoder and its LLM, which a compact encoder keeps as a LoRA adapter."""

from __future__ import annotations

import re
from pathlib import Path

from llama2vec.artifact import read_object
from llama2vec.errors import ModelError
from llama2vec.model.source import ADAPTER_CONFIG, COMPACT_ADAPTER

_LAYER = re.compile(r"\.(?:layers|h)\.(\d+)\.")


def merge_weights(compact: Path, base: Path, folder: Path, layers: int) -> None:
    """Write the weights of the ``layers`` lowest layers of an LLM plus a compact encoder's difference, in float16.

    Sums are taken in float64 and rounded once, so every processor writes the same bytes.

    Raises:
        ModelError: The difference is not from this LLM, or its scale is unknown.
    """
    from safetensors.torch import load_file, save_file

    adapter, scale = load_file(compact / COMPACT_ADAPTER), adapter_scale(compact)
    for file in sorted(base.glob("*.safetensors")):
        weights = {name: weight for name, weight in load_file(file).items() if not is_above(name, layers)}
        for name, weight in weights.items():
            if (whole := adapter.pop(name, None)) is not None:
                weights[name] = whole.half()
                continue
            down, up = (adapter.pop(adapter_key(name, side), None) for side in "AB")
            difference = 0 if down is None or up is None else scale * (up.double() @ down.double())
            weights[name] = (weight.double() + difference).half()
        save_file(weights, folder / file.name, metadata={"format": "pt"})
    if adapter:
        raise ModelError(f"{compact}: {min(adapter)} has no counterpart in {base}; name the LLM it was made from")


def is_above(weight: str, layers: int) -> bool:
    """Tell whether a weight belongs to a layer that a model of so many layers lacks.

    >>> is_above("model.layers.26.mlp.up_proj.weight", 26), is_above("model.norm.weight", 26)
    (True, False)
    """
    found = _LAYER.search(weight)
    return found is not None and int(found[1]) >= layers


def adapter_key(weight: str, side: str) -> str:
    """Return peft's name of one side, ``A`` or ``B``, of a weight's difference.

    >>> adapter_key("model.layers.0.mlp.up_proj.weight", "A")
    'base_model.model.model.layers.0.mlp.up_proj.lora_A.weight'
    """
    return f"base_model.model.{weight.removesuffix('.weight')}.lora_{side}.weight"


def adapter_scale(folder: Path) -> float:
    """Return what peft multiplies an adapter's product with: alpha / rank."""
    config = read_object(folder / ADAPTER_CONFIG) or {}
    try:
        return float(config["lora_alpha"]) / float(config["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: says no rank and alpha; restore it") from error

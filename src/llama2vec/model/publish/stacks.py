"""Which other programs a saved encoder opens in, how, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama2vec.model.contract import Contract
from llama2vec.model.limits import obstacles
from llama2vec.model.publish.prompted_tokenizer import surroundings

GGUF_MODELS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Models that `llama2vec export` writes for llama.cpp: ``model_type`` → its architecture there."""
# Architectures that llama2vec reads and that torch's exporter cannot write (torch 2.13).
_NOT_IN_ONNX = ("mamba",)
# Causal models of text-embeddings-inference 1.9 (docs/stacks.md).
_TEI_MODELS = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Stack:
    """Another program and an encoder."""

    name: str
    opens: bool  # Whether the encoder opens in it
    how: str  # What it takes, or why it does not open


def stacks_of(contract: Contract, model_type: str, *, padding_matters: bool = False) -> list[Stack]:
    """Return what becomes of an encoder in each program.

    Args:
        contract: That of the encoder.
        model_type: That of its ``config.json``.
        padding_matters: Whether padding changes its vectors, which loading it finds out.
    """
    servable = contract.encoder.servable
    found = obstacles(contract.ids, contract.encoder, prompts_sent=not servable)
    own = "as it is" if servable else "with trust_remote_code=True, which runs portable_encoder.py"
    why, sends = "; ".join(found), "if your client sends the prompts"
    vllm = Stack("vLLM", not found, why or ("as it is" if servable else sends))
    tei = Stack("TEI", not found, why or ("as it is" if servable else f"{sends}, with --pooling last-token"))
    if not found and model_type not in _TEI_MODELS:
        tei = Stack("TEI", False, f"it does not know the architecture {model_type}")
    return [
        Stack("sentence-transformers", True, own),
        _onnx(contract, model_type, padding_matters),
        vllm,
        tei,
        _llama_cpp(contract, model_type, why),
    ]


def _onnx(contract: Contract, model_type: str, padding_matters: bool) -> Stack:
    if padding_matters or _has_longrope(contract.config):
        return Stack("ONNX Runtime", False, "texts of different length must not share a batch of it")
    if model_type in _NOT_IN_ONNX:
        return Stack("ONNX Runtime", False, f"torch's exporter cannot write the architecture {model_type}")
    return Stack("ONNX Runtime", True, "after `llama2vec export`")


def _has_longrope(config: Mapping[str, Any]) -> bool:
    """Tell whether a ``config.json`` names two sets of rotary frequencies, for short texts and for long ones."""
    named = [config.get(key) for key in ("rope_parameters", "rope_scaling")]
    kinds = [one for one in named if isinstance(one, dict)]
    kinds += [inner for one in kinds for inner in one.values() if isinstance(inner, dict)]
    return any("longrope" in (one.get("rope_type"), one.get("type")) for one in kinds)


def _llama_cpp(contract: Contract, model_type: str, why: str) -> Stack:
    before, after = surroundings(contract, "passage")
    sends = "" if len(before) <= 1 and len(after) <= 1 else ", if your client sends the prompts"
    writer = (
        "`llama2vec export --to gguf`" if model_type in GGUF_MODELS else "its own converter, if that knows the model"
    )
    return Stack("llama.cpp", not why, why or f"after {writer}{sends}")


def stack_lines(contract: Contract, model_type: str, *, padding_matters: bool = False) -> list[str]:
    """Return one line on the programs that open an encoder, and one for each reason why others do not."""
    stacks = stacks_of(contract, model_type, padding_matters=padding_matters)
    opens = [f"{one.name} ({one.how})" for one in stacks if one.opens]
    lines = [f"opens in {', '.join(opens)}"]
    closed: dict[str, list[str]] = {}
    for one in stacks:
        if not one.opens:
            closed.setdefault(one.how, []).append(one.name)
    for why, names in closed.items():
        advice = (
            ""
            if contract.encoder.servable or names == ["ONNX Runtime"]
            else "; train with encoder.servable = true for these"
        )
        lines.append(f"not in {', '.join(names)}: {why}{advice}")
    return lines

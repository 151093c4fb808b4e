"""Checkpoints whose weights lie packed in their files: which can be trained, and which packages read them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama2vec.artifact import read_object
from llama2vec.errors import MissingDependencyError, ModelError
from llama2vec.model.source import ModelSource

_PACKAGES: Mapping[str, Mapping[str, str]] = {
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "'llama2vec[qlora]'"},
    "compressed-tensors": {"compressed_tensors": "'compressed-tensors>=0.15'"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
}
"""Method → module that transformers imports for it → what pip installs."""
_UNPACKED = frozenset({"bitnet", "fp8", "gguf", "mxfp4", "mxfp8"})
"""Methods whose weights transformers turns into plain ones while it loads them, or trains as they are."""


def check_quantization(source: ModelSource, *, for_training: bool) -> None:
    """Look at a model's config for packed weights, before anything else of it is read.

    Raises:
        ModelError: The weights are packed and are to be trained: nothing can merge adapters into them.
        MissingDependencyError: The packages that read them are not installed.
    """
    method = _method(_config(source))
    if not method or method in _UNPACKED:
        return
    if for_training:
        raise ModelError(
            f"{source.name}: its weights are quantized ({method}), and no training can be saved into such weights; "
            "name the unquantized model, and set model.quantization=nf4 to train over 4 bits"
        )
    lacking = [name for module, name in _PACKAGES.get(method, {}).items() if not importlib.util.find_spec(module)]
    if lacking:
        raise MissingDependencyError(
            f"{source.name}: its weights are quantized ({method}), and packages that read them are not installed; "
            f"pip install {' '.join(lacking)}"
        )


def _method(config: Mapping[str, Any]) -> str:
    """Return how the weights are packed, "" = they are plain ones."""
    text = config.get("text_config")
    found = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    if not isinstance(found, dict):
        return ""
    of_bits = any(found.get(name) for name in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"))
    return str(found.get("quant_method") or ("bitsandbytes" if of_bits else ""))


def _config(source: ModelSource) -> Mapping[str, Any]:
    if source.gguf_file:
        return {}
    folder = Path(source.location)
    if source.hub_id is None or folder.is_dir():
        return read_object(folder / "config.json") or {}
    from huggingface_hub import hf_hub_download

    try:
        return read_object(Path(hf_hub_download(source.hub_id, "config.json"))) or {}
    except Exception:  # Loading the model tells what is wrong with it
        return {}

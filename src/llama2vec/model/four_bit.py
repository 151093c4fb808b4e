"""QLoRA (arXiv 2305.14314): adapters trained over weights in 4 bits, by bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from llama2vec.errors import MissingDependencyError, ModelError


def four_bit_loading(place: torch.device) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` that load the projections in NF4 and multiply them in bfloat16.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("model.quantization needs bitsandbytes; pip install 'llama2vec[qlora]'")
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": how, "device_map": {"": str(place)}}


def merged_into(whole: Any, trained: Any) -> Any:
    """Merge the adapters that were trained over 4-bit weights into the same model with whole weights.

    Args:
        whole: The model as its files hold it.
        trained: The peft model around its 4-bit copy, which may have rows for new tokens.

    Raises:
        ModelError: The adapters do not fit the whole model.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base = trained.get_base_model()
    rows = base.get_input_embeddings().weight.shape[0]
    if rows > whole.get_input_embeddings().weight.shape[0]:
        whole.resize_token_embeddings(rows, mean_resizing=False)
    adapted = get_peft_model(whole, trained.peft_config[trained.active_adapter])
    of_base = dict(trained.named_parameters())
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            # Embeddings and head, whose new rows are not in the files, are not quantized.
            if weight.shape == of_base[name].shape and of_base[name].is_floating_point():
                weight.copy_(of_base[name])
    left = set_peft_model_state_dict(adapted, get_peft_model_state_dict(trained, save_embedding_layers=False))
    if left.unexpected_keys:
        raise ModelError(f"the adapters do not fit the whole model: {left.unexpected_keys[0]} has no place in it")
    return adapted.merge_and_unload()

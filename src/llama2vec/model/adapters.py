"""What training adds to a model: embedding rows for new slot tokens, and LoRA adapters."""

from __future__ import annotations

import re
from typing import Any

import torch

from llama2vec.config import LoraSettings, PromptSettings
from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.model.backbone import Backbone
from llama2vec.model.local import quiet_transformers
from llama2vec.model.prompt import add_slot_tokens

_NUMBERED = re.compile(r"\.\d+\.(?:.*\.)?(\w+)$")
# peft refuses these names in models with Mamba layers, whose kernels read their weights directly.
_MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
_MAMBA_REFUSED = ("out_proj", "conv1d")


def add_slot_tokens_and_rows(backbone: Backbone, prompts: PromptSettings) -> list[str]:
    """Add the prompt's new slot tokens to the tokenizer, and give them embedding rows that start from real ones.

    Each new row is the mean embedding of the prompt's own words plus half of one real row's deviation from it, so that
    slots start as meaningful and different vectors instead of random noise. A tied output head grows along.
    Returns the tokens that were new.
    """
    new_tokens = add_slot_tokens(backbone.tokenizer, prompts)
    if not new_tokens:
        return []
    wording = prompts.self_prompt + prompts.next_prompt
    model, tokenizer = backbone.model, backbone.tokenizer
    old_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    seeds = sorted(set(tokenizer(wording, add_special_tokens=False)["input_ids"]) - set(tokenizer.all_special_ids))
    new_ids = tokenizer.convert_tokens_to_ids(new_tokens)
    tables = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0].weight:
        tables.append(head)
    with torch.no_grad():
        for table in tables:
            rows = table.weight[seeds].float()
            center = rows.mean(dim=0)
            for position, new_id in enumerate(new_ids):
                row = center + 0.5 * (rows[position % len(seeds)] - center)
                table.weight[new_id] = row.to(table.weight.dtype)
    return new_tokens


def add_lora(backbone: Backbone, settings: LoraSettings, new_tokens: list[str], seed: int) -> Any:
    """Return the model with trainable low-rank adapters, float32; rows of new slot tokens stay trainable too."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft; pip install 'llama2vec[train]'") from error
    model = backbone.model
    extra: dict[str, Any] = {}
    if new_tokens:
        extra["trainable_token_indices"] = backbone.tokenizer.convert_tokens_to_ids(new_tokens)
    if settings.depth < 1:
        layers = int(model.config.num_hidden_layers)
        extra["layers_to_transform"] = list(range(layers - max(1, round(layers * settings.depth)), layers))
    if routers := _routers(model):
        extra["exclude_modules"] = routers
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        **extra,
    )
    with quiet_transformers():
        return get_peft_model(model, config)


def _targets(model: Any, settings: LoraSettings) -> str | list[str]:
    """Return the projections that get adapters, as peft wants them: a keyword, or names."""
    known = _projection_names(model)
    mamba = model.config.model_type in _MAMBA
    if isinstance(settings.targets, str) and settings.targets != "all-linear":
        return settings.targets  # A regular expression of peft's.
    if settings.targets == "all-linear":
        # Together with a choice of layers peft wants names, not the keyword.
        chosen = [name for name in known if not (mamba and name in _MAMBA_REFUSED)]
        return chosen if mamba or settings.depth < 1 else "all-linear"
    missing = sorted({name.rpartition(".")[2] for name in settings.targets} - set(known))
    if missing:
        raise ConfigError(f"lora.targets: the model has no projection '{missing[0]}'; it has {', '.join(known)}")
    return settings.targets


@torch.no_grad()
def _routers(model: Any) -> list[str]:
    """Return the names of linear layers with a result other than a tensor, such as the routers of Llama 4 and Phi-MoE.

    They choose experts; peft can adapt no such layer.
    """
    special = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and type(module) is not torch.nn.Linear
    ]
    probes = [module(module.weight.new_zeros(1, module.in_features)) for _, module in special]
    return [name for (name, _), probe in zip(special, probes, strict=True) if not isinstance(probe, torch.Tensor)]


def _projection_names(model: Any) -> list[str]:
    """Return the names of the linear projections inside the layers, such as ``q_proj``."""
    kinds = ("Linear", "Conv1D")
    found = (_NUMBERED.search(name) for name, module in model.named_modules() if type(module).__name__ in kinds)
    return sorted({match[1] for match in found if match})

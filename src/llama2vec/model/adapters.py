"""What training adds to a model: embedding rows for new slot tokens, and LoRA adapters."""

from __future__ import annotations

import re
from typing import Any

import torch

from llama2vec.config import LoraSettings, PromptSettings
from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.model.backbone import Backbone
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.prompt import add_slot_tokens

_NUMBERED = re.compile(r"\.\d+\.(?:.*\.)?(\w+)$")
# peft refuses these names in models with Mamba layers, whose kernels read their weights directly.
_MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
_MAMBA_REFUSED = ("out_proj", "conv1d")
_SPREAD_ROWS = 256


def add_slot_tokens_and_rows(backbone: Backbone, prompts: PromptSettings) -> list[str]:
    """Add the prompt's new slot tokens to the tokenizer, and give them embedding rows that start from real ones.

    Each new row is the mean embedding of the prompt's own words plus half of one real row's deviation from it, so that
    slots start as meaningful and different vectors instead of random noise. Without such words, rows from the whole
    table stand in for them. A tied output head grows along. Returns the tokens that were new.
    """
    new_tokens = add_slot_tokens(backbone.tokenizer, prompts)
    if not new_tokens:
        return []
    wording = prompts.self_prompt + prompts.next_prompt
    model, tokenizer = backbone.model, backbone.tokenizer
    old_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    special = set(tokenizer.all_special_ids)
    seeds = sorted(set(tokenizer(wording, add_special_tokens=False)["input_ids"]) - special)
    seeds = seeds or sorted(set(range(0, old_rows, max(1, old_rows // _SPREAD_ROWS))) - special)
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
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            problem = f"peft cannot adapt {settings.targets!r} of this model"
            raise ConfigError(f"lora.targets: {problem}; {_choice(model)}") from error


def _targets(model: Any, settings: LoraSettings) -> str | list[str]:
    """Return the projections that get adapters, as peft wants them: a keyword, a regular expression, or names."""
    known, wanted = _projection_names(model), settings.targets
    if wanted == "all-linear":
        mamba = model.config.model_type in _MAMBA
        # Together with a choice of layers peft wants names, not the keyword.
        chosen = [name for name in known if not (mamba and name in _MAMBA_REFUSED)]
        return chosen if mamba or settings.depth < 1 else "all-linear"
    if isinstance(wanted, str) and wanted not in known:
        _check_expression(model, wanted, settings.depth)
        return wanted
    names = [wanted] if isinstance(wanted, str) else wanted
    if not names:
        raise ConfigError(f"lora.targets names none of the model's projections; {_choice(model)}")
    there = [f".{name}" for name in _projections(model)]
    for name in names:
        if not any(one.endswith(f".{name}") for one in there):
            raise ConfigError(f"lora.targets: the model has no projection '{name}'; {_choice(model)}")
    return names


def _check_expression(model: Any, expression: str, depth: float) -> None:
    """Raise a ConfigError unless a regular expression finds modules, as peft asks: by their whole names."""
    try:
        found = any(re.fullmatch(expression, name) for name, _ in model.named_modules())
    except re.error as error:
        problem = f"neither a projection of the model nor a regular expression ({error})"
        raise ConfigError(f"lora.targets: '{expression}' is {problem}; {_choice(model)}") from None
    if not found:
        raise ConfigError(f"lora.targets: no projection of the model matches '{expression}'; {_choice(model)}")
    if depth < 1:
        raise ConfigError(
            "lora.depth: a regular expression in lora.targets chooses the layers itself; name projections, or set "
            "lora.depth to 1"
        )


def _choice(model: Any) -> str:
    return f"it has {', '.join(_projection_names(model))}"


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


def _projections(model: Any) -> list[str]:
    """Return the names of the linear projections inside the layers, such as ``model.layers.0.self_attn.q_proj``."""
    kinds = ("Linear", "Conv1D", "Linear4bit")
    found = [name for name, module in model.named_modules() if type(module).__name__ in kinds]
    return [name for name in found if _NUMBERED.search(name)]


def _projection_names(model: Any) -> list[str]:
    """Return the short names of these projections, such as ``q_proj``."""
    return sorted({name.rpartition(".")[2] for name in _projections(model)})

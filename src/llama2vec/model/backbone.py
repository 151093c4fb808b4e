"""Load any causal LLM that transformers reads, from the hub, a folder or a GGUF file, and check that it can serve."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn import ModuleList
from transformers import AutoConfig, PreTrainedModel

from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError, ModelError, NotCausalError
from llama2vec.model.device import choose_device, choose_dtype
from llama2vec.model.four_bit import four_bit_loading
from llama2vec.model.gguf import unpack_gguf
from llama2vec.model.loading import SAFE, check_weights, model_errors, quiet_transformers
from llama2vec.model.local import cached, fetched
from llama2vec.model.multimodal import text_part
from llama2vec.model.prompt import Tokenizer
from llama2vec.model.quantized import check_quantization
from llama2vec.model.source import ModelSource, resolve_model
from llama2vec.model.tokenizer import check_causal_config, drop_tokens_beyond, read_tokenizer
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

READ_STATES = "read_states"
"""Attribute of a model that processes share: a function that reads it without the head, as its decoder would."""

CHANGED_TOP = "llama2vec"
"""Key of a config that says what was changed above the layer that the vectors come from."""

_HOOKED = "_output_capturing_hooks_installed"


@dataclass(slots=True)
class Backbone:
    """A causal LM with its tokenizer."""

    model: Any  # Of transformers, in evaluation mode.
    tokenizer: Tokenizer  # Cuts texts at their end.
    source: ModelSource
    missing_head: tuple[str, ...] = ()  # Output-head weights that the files lack; such a head is random, never read.
    padding_changes_vectors: bool = False  # Whether texts of different length must not share a batch.
    kept_layers: int = 0  # How many of the layers in the files loading kept; 0 = all.

    def __getstate__(self) -> dict[str, Any]:
        # As in portable_encoder.py: other processes may get a pickled encoder, but the hooks by which transformers
        # records hidden states cannot be pickled. The next text brings them back.
        for module in self.model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
            if getattr(module, _HOOKED, False):
                setattr(module, _HOOKED, False)
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        if isinstance(self.model, PreTrainedModel):
            # transformers notes what a class of models can record when it builds one, in each process.
            with torch.device("meta"):
                type(self.model)(self.model.config)

    @property
    def dtype(self) -> str:
        """Number format that the model computes in, such as ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def rotary_boundary(self) -> int:
        """Length at which a model with two sets of rotary frequencies (longrope) changes over; 0 = it has one set."""
        config = self.model.config
        rope = getattr(config, "rope_parameters", None) or {}
        # One set of parameters, or one for each kind of layer.
        kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
        for parameters in kinds:
            if parameters.get("rope_type") == "longrope":
                original = parameters.get("original_max_position_embeddings")
                return int(original or getattr(config, "original_max_position_embeddings", 0) or 0)
        return 0

    def require_head(self, use: str) -> None:
        """Raise a ModelError if the weights have no output head, which ``use`` needs."""
        if self.missing_head:
            raise ModelError(
                f"{self.source.name}: the weights have no output head ({', '.join(self.missing_head)}), which {use} "
                "needs; take the complete language model"
            )
        if getattr(self.model.config, CHANGED_TOP, None):
            raise ModelError(
                f"{self.source.name}: was made for vectors alone (encoder.drop_layers, encoder.standardize), so its "
                f"output head says nothing; {use} needs a model without that"
            )


def load_backbone(
    settings: ModelSettings,
    device: torch.device | None = None,
    source: ModelSource | None = None,
    *,
    for_training: bool = False,
) -> Backbone:
    """Load a causal LM and its tokenizer; a GGUF file is dequantized into a trainable, savable model.

    It keeps the ``settings.layers`` lowest layers. ``device`` and ``source``, which has been
    :func:`fetched`, override what the settings say. ``for_training`` loads the weights in 4 bits where
    ``settings.quantization`` asks for it.

    Raises:
        ConfigError: The model has fewer layers than ``settings.layers``, or no single list of them.
        ModelNotFoundError: Nothing to load under this name.
        NotCausalError: An encoder-decoder, or a model whose earlier positions see later tokens.
        ModelError: Weights are missing, cut short, not finite, or packed and to be trained; a tokenizer does not fit.
        MissingDependencyError: A package for weights in 4 bits, or for packed ones, is not installed.
    """
    place = device or choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, place)
    source = source or fetched(resolve_model(settings.name))
    source.check_files()
    check_quantization(source, for_training=for_training)
    location = unpack_gguf(source) if source.gguf_file else source.location
    four_bit = four_bit_loading(place) if for_training and settings.quantization == "nf4" else {}
    with quiet_transformers(), model_errors(source):
        config, renamed = text_part(AutoConfig.from_pretrained(location, **SAFE))
        check_causal_config(source.name, config)
        check_format(source.name, config, dtype)
        tokenizer = read_tokenizer(source, location)
        model, found = _architecture(config).from_pretrained(
            location,
            config=config,
            key_mapping=renamed or None,
            dtype=dtype,
            attn_implementation=attention_kernel(source.name, config, settings.attention),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # Refused below, by name.
            **four_bit,
        )
        if renamed:  # transformers would save the weights under their old names again.
            vars(model).pop("_weight_conversions", None)
        missing_head = check_weights(source.name, model, found)
        drop_tokens_beyond(source.name, tokenizer, model.get_input_embeddings().weight.shape[0])
        model.config.use_cache = False
        kept_layers = keep_lowest_layers(model, settings.layers)
        # Not the dtype as well: rotary frequencies stay float32; in bfloat16 they are 0.2 rad off at position 500.
        model = model.to(device=place).eval()
        backbone = Backbone(model, tokenizer, cached(source), missing_head, kept_layers=kept_layers)
        backbone.padding_changes_vectors = _check_behavior(backbone)
    return backbone


def decoder(model: Any) -> Any:
    """Return the part of a causal LM below the output head; its result has ``last_hidden_state`` [B, L, D]."""
    if READ_STATES in vars(model):
        return vars(model)[READ_STATES]
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if plain.base_model is not plain:
        return plain.base_model
    # Llama 4's prefix names another part, so that ``base_model`` is the whole model.
    return next(child for child in plain.children() if isinstance(child, PreTrainedModel))


def layer_list(model: Any) -> ModuleList | None:
    """Return the list of a causal LM's layers, which run one after the other; None if it keeps them elsewhere."""
    count = int(model.config.num_hidden_layers)
    found = [child for child in decoder(model).children() if isinstance(child, ModuleList) and len(child) == count]
    return found[0] if len(found) == 1 else None


def take_out_top_layers(model: Any, count: int, setting: str) -> None:
    """Take the ``count`` top layers out of a model, in place, and out of its config.

    Raises:
        ConfigError: The model has too few layers, or no single list of them; ``setting`` is to blame.
    """
    layers = check_layers(model, count, setting)
    before = len(layers)
    del layers[before - count :]
    for name, value in list(vars(model.config).items()):
        # One entry a layer, such as its kind of attention.
        if isinstance(value, list) and len(value) == before:
            setattr(model.config, name, value[: before - count])
    model.config.num_hidden_layers = before - count


def check_layers(model: Any, count: int, setting: str) -> ModuleList:
    """Return the layers of a model; a ConfigError names ``setting`` where ``count`` of them cannot be taken out."""
    layers = layer_list(model)
    if layers is None:
        raise ConfigError(f"{setting}: {type(model).__name__} has no single list of layers; set it to 0 for this model")
    if count >= len(layers):
        raise ConfigError(f"{setting} is {count} and the model has {counted(len(layers), 'layer')}; lower it")
    return layers


def check_keepable(count: int, has: int) -> None:
    """Raise a ConfigError if ``model.layers`` is above the number of layers that a model has."""
    if count > has:
        raise ConfigError(f"model.layers is {count} and the model has {counted(has, 'layer')}; lower it")


def keep_lowest_layers(model: Any, count: int) -> int:
    """Keep the ``count`` lowest layers of a model and its head; return the number, 0 where that is all it has."""
    has = int(model.config.num_hidden_layers)
    check_keepable(count, has)
    if count in (0, has):
        return 0
    take_out_top_layers(model, has - count, "model.layers")
    return count


def _architecture(config: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def check_recomputing(config: Any) -> None:
    """Raise a ConfigError if ``model.gradient_checkpointing`` is set and an architecture cannot recompute."""
    architecture = _architecture(config)
    if not architecture.supports_gradient_checkpointing:
        raise ConfigError(f"model.gradient_checkpointing: {architecture.__name__} does not support it; set it to false")


def check_format(name: str, config: Any, dtype: torch.dtype) -> None:
    """Raise a ModelError where transformers computes an architecture in float32 alone."""
    if config.model_type == "xlstm" and dtype != torch.float32 and importlib.util.find_spec("xlstm") is None:
        raise ModelError(
            f"{name}: transformers computes xLSTM in float32 alone; set model.dtype=float32 (--dtype float32)"
        )


def attention_kernel(name: str, config: Any, wanted: str) -> str:
    """Return the attention kernel: eager where SDPA is asked for and the architecture does not support it."""
    architecture = _architecture(config)
    if wanted != "sdpa" or getattr(architecture, "_supports_sdpa", True):
        return wanted
    logger.info("%s: %s does not support SDPA attention; using eager attention", name, architecture.__name__)
    return "eager"


@torch.no_grad()
def _check_behavior(backbone: Backbone) -> bool:
    """Look whether numbers overflow, and whether a later token changes an earlier position, as it does in BERT.

    Returns:
        Whether the mere presence of later tokens, such as padding, changes an earlier position.
    """
    name, model, dtype = backbone.source.name, backbone.model, backbone.dtype
    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = torch.arange(4, device=model.device).remainder(vocabulary).repeat(2, 1)
    rows[1, -1] = (rows[1, -1] + 1) % vocabulary
    states = decoder(model)(input_ids=rows, use_cache=False).last_hidden_state.float()  # [2, 4, D]
    if not states.isfinite().all():
        advice = "load it as bfloat16 or float32 (--dtype)" if dtype == "float16" else "take undamaged weights"
        raise ModelError(f"{name}: the model's numbers are not finite in {dtype}; {advice}")
    before, after = states[:, :3]
    if not _alike(before, after):
        raise NotCausalError(
            f"{name}: earlier positions see later tokens, so this is not a causal language model; choose one"
        )
    alone = decoder(model)(input_ids=rows[:1, :3], use_cache=False).last_hidden_state[0].float()
    if padding_matters := not _alike(before, alone):
        logger.info("%s: padding changes its vectors; only texts of equal length share a batch", name)
    return padding_matters


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-2, atol=1e-2 * float(one.abs().max()))

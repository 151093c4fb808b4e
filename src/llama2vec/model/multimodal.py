"""The language model inside a multi-modal checkpoint: its config, and what its weights are called there."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

# Text parts without a causal language model of their own. For text alone, all three of their rotary positions are the
# same, and they compute what these models do.
_TWINS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
}
# Prefixes of the files of transformers 5, of older files, and of the Idefics family.
_NAMES = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.text_model\.": "model.",
}
_OF_THE_WHOLE = ("bos_token_id", "eos_token_id", "pad_token_id")


def text_part(config: Any) -> tuple[Any, dict[str, str]]:
    """Return the config of a checkpoint's language model, and patterns that rename its weights.

    A checkpoint without other parts keeps its config, and no weight is renamed.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        return config, {}
    text = config.get_text_config()
    if text is config:
        return config, {}
    if twin := _TWINS.get(text.model_type):
        text = _as_twin(text, twin)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config, {}
    if getattr(config, "tie_word_embeddings", None) is not None:
        text.tie_word_embeddings = config.tie_word_embeddings
    for name in _OF_THE_WHOLE:
        if getattr(text, name, None) is None and getattr(config, name, None) is not None:
            setattr(text, name, getattr(config, name))
    return text, _NAMES


def _as_twin(text: Any, twin: str) -> Any:
    """Return the config as one of a model whose rotary positions have one dimension."""
    values = {key: value for key, value in text.to_dict().items() if key not in ("model_type", "architectures")}
    rope = dict(values.get("rope_parameters") or {})
    rope.pop("mrope_section", None)
    rope.pop("mrope_interleaved", None)
    rope |= {"rope_type": "default"} if rope.get("rope_type") == "mrope" else {}
    return AutoConfig.for_model(twin, **{**values, "rope_parameters": rope})

"""A model's tokenizer and config, without its weights.

The files are found before transformers is imported, which takes seconds: a wrong name shows at once.
"""

from __future__ import annotations

from typing import Any

from llama2vec.errors import NotCausalError
from llama2vec.model.local import SAFE, fetched, gguf_tokenizer, model_errors, quiet_transformers, unpacked_folder
from llama2vec.model.prompt import Tokenizer
from llama2vec.model.source import ModelSource, resolve_model


def load_tokenizer(name: str) -> Tokenizer:
    """Load a model's tokenizer alone, without its length limit; the weights, also those in a GGUF, are not read."""
    source, location, only = _where_to_read(name)
    with quiet_transformers(), model_errors(source):
        tokenizer = read_tokenizer(source, location, in_gguf=bool(only))
    # Texts are counted before they are cut; the tokenizer would warn of each long one.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def load_model_config(name: str) -> Any:
    """Load a model's config alone and check that it is a causal LM; the weights are not read."""
    source, location, only = _where_to_read(name)
    from transformers import AutoConfig

    from llama2vec.model.multimodal import text_part

    with quiet_transformers(), model_errors(source):
        config, _ = text_part(AutoConfig.from_pretrained(location, **only, **SAFE))
        check_causal_config(source.name, config)
    return config


def read_tokenizer(source: ModelSource, location: str, *, in_gguf: bool = False) -> Tokenizer:
    """Read the tokenizer of a model whose files have been found, from a folder or from its GGUF file."""
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = gguf_tokenizer(source) if in_gguf else AutoTokenizer.from_pretrained(location, **SAFE)
    # Texts keep their beginning, as the contract says, even if the tokenizer's own files ask to cut it.
    tokenizer.truncation_side = "right"
    if tokenizer.is_fast:
        # The first call would undo what the files say of length, while other threads may be reading a text.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def check_causal_config(name: str, config: Any) -> None:
    """Raise a NotCausalError if a config is not that of a causal LM."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False) or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise NotCausalError(f"{name}: '{config.model_type}' is not a causal language model; choose a decoder-only LLM")


def _where_to_read(name: str) -> tuple[ModelSource, str, dict[str, str]]:
    """Find a model, and the options for transformers that spare reading a GGUF file that has been unpacked."""
    source = fetched(resolve_model(name))
    if not source.gguf_file:
        return source, source.location, {}
    source.check_files()
    if (unpacked := unpacked_folder(source)).is_dir():
        return source, str(unpacked), {}
    return source, source.location, {"gguf_file": source.gguf_file}

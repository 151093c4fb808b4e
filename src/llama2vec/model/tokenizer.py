"""A model's tokenizer and config, without its weights.

The files are found before transformers is imported, which takes seconds: a wrong name shows at once.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from llama2vec.errors import ModelError, NotCausalError
from llama2vec.model.gguf import gguf_tokenizer, unpacked_folder
from llama2vec.model.loading import SAFE, model_errors, quiet_transformers
from llama2vec.model.local import fetched
from llama2vec.model.prompt import Tokenizer
from llama2vec.model.source import ModelSource, resolve_model
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_TOKENS_SHOWN = 3


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


def drop_tokens_beyond(name: str, tokenizer: Tokenizer, rows: int) -> None:
    """Take added tokens that a model has no embedding rows for out of its tokenizer, in place.

    Gemma 3's tokenizer has a token for images, one beyond the rows of its text models.

    Raises:
        ModelError: A token of the vocabulary itself, or one that begins or ends every text, lies beyond the rows.
    """
    vocabulary = tokenizer.get_vocab()
    beyond = {token for token, number in vocabulary.items() if number >= rows}
    if not beyond:
        return
    if tokenizer.is_fast and not beyond & tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).keys():
        _take_out(tokenizer, beyond)
    highest = max([*tokenizer.get_vocab().values(), *tokenizer("")["input_ids"]], default=0)
    if highest >= rows:
        raise ModelError(
            f"{name}: the tokenizer has ids up to {max(vocabulary.values())}, and the model has {rows} embedding rows; "
            "take the tokenizer that belongs to the weights, or resize the model's embeddings"
        )
    shown, more = sorted(beyond)[:_TOKENS_SHOWN], " …" if len(beyond) > _TOKENS_SHOWN else ""
    logger.info(
        "%s: the model has no embedding rows for %s of its tokenizer, which %s left out: %s%s", name,
        counted(len(beyond), "added token"), "is" if len(beyond) == 1 else "are", ", ".join(shown), more,
    )  # fmt: skip


def _take_out(tokenizer: Any, tokens: set[str]) -> None:
    """Take added tokens out of a fast tokenizer, and out of what it saves, from which they would come back."""
    backend = tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in tokens]
    tokenizer._tokenizer = type(backend).from_str(json.dumps(content))
    for key, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and token in tokens:
            setattr(tokenizer, key, None)
    tokenizer.extra_special_tokens = [one for one in tokenizer.extra_special_tokens if str(one) not in tokens]
    saved = tokenizer.init_kwargs
    for key in [key for key, value in saved.items() if key.endswith("_token") and str(value) in tokens]:
        del saved[key]
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(saved.get(key), list):
            saved[key] = [one for one in saved[key] if str(one) not in tokens]
    for key in ("model_specific_special_tokens", "added_tokens_decoder"):
        if isinstance(saved.get(key), dict):
            saved[key] = {name: one for name, one in saved[key].items() if str(one) not in tokens}


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

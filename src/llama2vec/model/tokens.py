"""A model's own tokens, in which passages and windows are measured, also without its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.data.corpus.reading import is_split
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.data.text.cutting import TokenSpans
from llama2vec.errors import TokenizerError
from llama2vec.manifest import digest
from llama2vec.model.contract import saved_settings
from llama2vec.model.limits import most_tokens
from llama2vec.model.local import fetched
from llama2vec.model.prompt import Tokenizer, add_slot_tokens, prompt_ids
from llama2vec.model.source import ModelSpec
from llama2vec.model.tokenizer import load_model_config, load_tokenizer
from llama2vec.records import SIDES, Side

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

_NO_TOKENIZATION = ("added_tokens", "truncation", "padding")
"""Parts of tokenizer.json that training or a call changes, and that decide nothing about plain text."""


def token_spans(tokenizer: Tokenizer) -> TokenSpans:
    """Return the function that finds a tokenizer's tokens in a text.

    Raises:
        TokenizerError: The tokenizer is a slow one, which does not say where its tokens are.
    """
    if not tokenizer.is_fast:
        raise TokenizerError(
            "splitting texts needs a fast tokenizer, which reports token positions; use a model with one"
        )

    def spans(text: str) -> Sequence[tuple[int, int]]:
        # Not verbose: a text longer than the model reads is expected here.
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return found["offset_mapping"]  # type: ignore[no-any-return]

    return spans


def encoder_splitter(encoder: Encoder, settings: PassageSettings | None = None) -> Splitter:
    """Return a splitter whose passages a loaded encoder reads whole."""
    _, reads = encoder.reading("passage")
    return _splitter(encoder.backbone.tokenizer, reads, settings)


def model_splitter(spec: ModelSpec, settings: PassageSettings | None = None) -> Splitter:
    """Return the splitter that :func:`encoder_splitter` gives for a model, without loading its weights.

    Raises:
        ModelNotFoundError: No such model.
        TokenizerError: Its tokenizer is a slow one.
        ConfigError: The settings ask for longer passages than the model reads.
    """
    return _splitter(*passage_reading(spec), settings)


def passage_reading(spec: ModelSpec) -> tuple[Tokenizer, int]:
    """Return a model's tokenizer and how many tokens it reads of a passage, without loading its weights."""
    tokenizer, reads = text_limits(spec)
    return tokenizer, reads["passage"]


def text_limits(spec: ModelSpec) -> tuple[Tokenizer, dict[Side, int]]:
    """Return a model's tokenizer and how many tokens it reads of a text on each side, without loading its weights."""
    name, source = spec.path or spec.name, fetched(spec.source())
    tokenizer, saved = load_tokenizer(name), saved_settings(Path(source.location))
    if saved:
        return tokenizer, {"query": saved[1].query_max_tokens, "passage": saved[1].passage_max_tokens}
    prompts, encoder = spec.prompts or PromptSettings(), spec.encoder or EncoderSettings()
    add_slot_tokens(tokenizer, prompts)
    ids = prompt_ids(tokenizer, prompts)
    room = most_tokens(load_model_config(name), ids)
    limits: dict[Side, int] = {}
    for side in SIDES:
        prompt, reads = encoder.reading(side)
        if encoder.count_prompt:
            reads = max(1, ids.text_room(reads, prompt))
        limits[side] = reads if room is None else min(reads, room)
    return tokenizer, limits


def corpus_splitter(
    source: str | Path,
    model: Encoder | ModelSpec | None,
    settings: PassageSettings,
    reading: ReadingSettings | None = None,
) -> Splitter | None:
    """Return what splits a corpus: None for rows that are read as they are, and for documents that stay whole.

    Args:
        source: Documents, or another corpus.
        model: The encoder of the passages, loaded or not; None = count words.
        settings: What is split, and how.
        reading: How documents are read, which decides what is a document.
    """
    if not is_split(source, settings, reading):
        return None
    if model is None:
        return Splitter.of_words(settings)
    return model_splitter(model, settings) if isinstance(model, ModelSpec) else encoder_splitter(model, settings)


def _splitter(tokenizer: Tokenizer, reads: int, settings: PassageSettings | None) -> Splitter:
    return Splitter(settings or PassageSettings(), token_spans(tokenizer), reads, tokenizer=_fingerprint(tokenizer))


def _fingerprint(tokenizer: Tokenizer) -> str:
    """Return a hash of how a fast tokenizer reads plain text, which the slot tokens of adaptation do not change."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({key: content[key] for key in content if key not in _NO_TOKENIZATION})

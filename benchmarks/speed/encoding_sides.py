"""The sides of the encoding comparisons; each turns the same texts into unit vectors of the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings
from llama2vec.model.backbone import decoder, load_backbone
from llama2vec.model.device import choose_device, cpu_has_bfloat16
from llama2vec.model.encoder import Encoder, Vectors
from llama2vec.model.prompt import prompt_ids

Encode = Callable[[Sequence[str]], Vectors]


def build_encoder(side: str, model: str, dtype: str, max_tokens: int) -> tuple[Encode, Any]:
    """Build a side by name (``ours``, ``sentence-transformers``, ``reference``); return it with its model."""
    encoder = Encoder.from_backbone(
        load_backbone(ModelSettings(name=model, dtype=dtype)), settings=EncoderSettings(passage_max_tokens=max_tokens)
    )
    if side == "ours":
        # What "auto" does with a corpus; the texts of a turn are too few for it.
        encoder.compile = dtype == "bfloat16" and cpu_has_bfloat16()
        return encoder.encode_passages, encoder.backbone.model
    if side == "reference":
        return _reference(encoder), encoder.backbone.model
    del encoder
    return _sentence_transformers(model, dtype)


def prompted(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Append the passage prompt to each text as text (wording and slot), for libraries without prompt suffixes."""
    prompts = PromptSettings()
    return [f"{prompts.prefix}{text}{prompts.self_prompt}{tokenizer.eos_token}" for text in texts]


def token_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return what our encoder reads: each text's ids with the prompt's ids around them."""
    prompts = prompt_ids(tokenizer, PromptSettings())
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [prompts.wrap(row, "self", len(row)) for row in rows]


def _reference(encoder: Encoder) -> Encode:
    """Encode one text at a time in the plainest way: last hidden state at the last token, normalized in float32."""
    model, tokenizer = encoder.backbone.model, encoder.backbone.tokenizer

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Vectors:
        vectors = []
        for row in token_ids(texts, tokenizer):
            hidden = decoder(model)(input_ids=torch.tensor([row], device=model.device)).last_hidden_state
            vectors.append(torch.nn.functional.normalize(hidden[0, -1].float(), dim=-1).cpu().numpy())
        return np.stack(vectors)

    return encode


def library_modules(model: str, dtype: str, backend: str = "torch") -> tuple[Any, Any]:
    """Return sentence-transformers' Transformer over a model folder and its last-token Pooling."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kwargs = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
        transformer = Transformer(model, model_kwargs=kwargs, backend=backend)
    if transformer.tokenizer.pad_token is None:
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    return transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")


def _sentence_transformers(model: str, dtype: str) -> tuple[Encode, Any]:
    """sentence-transformers as its documentation builds it from modules; its own batches of 32, sorted by length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    transformer, pooling = library_modules(model, dtype)
    library = SentenceTransformer(modules=[transformer, pooling, Normalize()], device=str(choose_device()))

    def encode(texts: Sequence[str]) -> Vectors:
        sentences = prompted(texts, transformer.tokenizer)
        found = library.encode(sentences, show_progress_bar=False, convert_to_tensor=True)
        vectors: Vectors = found.float().cpu().numpy()
        return vectors

    return encode, library

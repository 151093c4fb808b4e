"""Tiny random models that score pairs of texts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def _bert(kind: str, tokenizer: Any, **changes: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128, pad_token_id=0, **changes,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(20)
    return model


def save_cross_encoder(tokenizer: Any, folder: Path, *, labels: int = 1, bias: float = 0.0) -> Path:
    """Save a cross-encoder as transformers does."""
    import torch

    model = _bert("BertForSequenceClassification", tokenizer, num_labels=labels)
    with torch.no_grad():
        model.classifier.bias.fill_(bias)
    tokenizer.model_max_length = 128
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_sentence_transformer(tokenizer: Any, folder: Path) -> Path:
    """Save a sentence-transformers model that puts a prompt before queries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    tokenizer.model_max_length = 128
    _bert("BertModel", tokenizer).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    parts = [Transformer(str(folder / "bert")), Pooling(16)]
    model = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "castle ", "document": ""})
    model.save(str(folder / "model"))
    return folder / "model"

"""A tiny random language model, and sentences of made-up English."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

_WORDS = re.findall(
    r"\w+",
    """river stone bridge castle winter market harbor engine letter garden forest silver copper orchard temple village
    mountain lantern captain merchant painter kitchen window thunder valley cotton pepper saddle ladder""",
)


def sentence(draw: random.Random) -> str:
    """Return a sentence of twelve words."""
    return f"The {' '.join(draw.choice(_WORDS) for _ in range(9))} of the {draw.choice(_WORDS)}."


def save_tiny_model(folder: Path, texts: Sequence[str]) -> None:
    """Save a random Llama of two layers and a byte-pair tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    model.save_pretrained(folder)

"""Labeled examples made of made-up sentences, and an objective over a tiny model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings
from llama2vec.finetune.settings import ExamplesSettings, PretextSettings
from llama2vec.records import TrainingExample


@pytest.fixture(scope="session")
def examples(sentences: list[str]) -> list[TrainingExample]:
    """24 queries of two words; their passages repeat both. Every third row has no negative."""
    draw = random.Random(5)
    words = sorted({word for sentence in sentences for word in sentence[:-1].split()} - {"The", "of", "the"})

    def cut(count: int) -> str:
        return " ".join(draw.choice(sentences).split()[:count])

    made = []
    for row in range(24):
        first, second = draw.sample(words, 2)
        made.append(
            TrainingExample(
                query=f"{first} {second} {row}",
                positives=tuple(f"{first} {second} {cut(3 + number)}" for number in range(1 + row % 2)),
                negatives=tuple(f"{cut(3 + row % 5)} {row} {number}" for number in range(row % 3)),
            )
        )
    return made


@pytest.fixture(scope="session")
def make_objective(llama_folder: Path) -> Callable[..., Any]:
    """Return a maker of (trainable model, objective) over the tiny Llama, in training mode."""

    def make(
        *, rank: int = 0, dropout: float = 0.0, folder: Path = llama_folder, encoder: EncoderSettings | None = None,
        pretext: PretextSettings | None = None, prompts: PromptSettings | None = None, **settings: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        from llama2vec.config import LoraSettings
        from llama2vec.finetune.ebae import Ebae
        from llama2vec.finetune.settings import ContrastiveSettings
        from llama2vec.finetune.train import ContrastiveObjective
        from llama2vec.model.backbone import load_backbone
        from llama2vec.model.encoder import Encoder
        from llama2vec.training.saving import make_trainable

        model = ModelSettings(
            name=str(folder), dtype="float32", device="cpu", lora=LoraSettings(rank=rank, dropout=dropout)
        ) if rank else ModelSettings(
            name=str(folder), dtype="float32", device="cpu", lora=LoraSettings(rank=0)
        )  # fmt: skip
        backbone = load_backbone(model)
        limits = {"query_max_tokens": 40, "passage_max_tokens": 60}
        made = Encoder.from_backbone(
            backbone, prompts, encoder or EncoderSettings(query_prompt="next", passage_prompt="self", **limits)
        )
        ebae = Ebae(made, pretext, {"query": 40, "passage": 60}) if pretext else None
        trainable = make_trainable(backbone, model, [], seed=3).train()
        _wake_adapters(trainable)
        return trainable, ContrastiveObjective(
            made, ContrastiveSettings(**{"temperature": 0.1, **settings}), ExamplesSettings(), ebae=ebae
        )

    return make


def _wake_adapters(model: Any) -> None:
    """Give LoRA's second factor values: at zero it would hide the first one's gradient."""
    import torch

    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)

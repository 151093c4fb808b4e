"""Encoders of tiny models, in float32 on the CPU, so that tests can compare numbers tightly."""

from __future__ import annotations

from pathlib import Path

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings
from llama2vec.model.encoder import Encoder

FLOAT32 = ModelSettings(dtype="float32", device="cpu")


def encoder_for(
    folder: Path, prompts: PromptSettings | None = None, settings: EncoderSettings | None = None
) -> Encoder:
    """Load a model folder with the given wording and lengths; None = what the folder says, else the defaults."""
    return Encoder.load(folder, settings=FLOAT32, prompts=prompts, encoder=settings)

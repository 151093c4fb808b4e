"""Saved encoders to publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import FLOAT32

from llama2vec.config import PROMPT_RECIPES, EncoderSettings
from llama2vec.model.encoder import Encoder


@pytest.fixture
def save(llama_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny encoder as ``tiny``."""

    def make(recipe: str = "paper", **settings: Any) -> Path:
        pairing = {} if settings.get("servable") else {"query_prompt": "next"}
        chosen = EncoderSettings.model_validate({**pairing, **settings})
        encoder = Encoder.load(llama_folder, settings=FLOAT32, prompts=PROMPT_RECIPES[recipe], encoder=chosen)
        return encoder.save(tmp_path / "tiny")

    return make

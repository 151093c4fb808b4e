"""Numbers of the authors' own code (``benchmarks/fidelity/authors.py --fixture``), and the model they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.fidelity.authors_side import fill_weights
from llama2vec.model.prompt import PromptIds

NUMBERS = json.loads((Path(__file__).parent / "unit" / "authors_numbers.json").read_text(encoding="utf-8"))


def published_llama() -> Any:
    """Return the tiny Llama that both sides start from."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(bos_token_id=1, eos_token_id=2, **NUMBERS["config"]))
    fill_weights(model, seed=0)
    return model


def published_prompts() -> PromptIds:
    """Return the released prompts in the tokens of the fixture."""
    ids = {name: tuple(found) for name, found in NUMBERS["prompts"].items()}
    return PromptIds(ids["prefix"], {"self": ids["self"], "next": ids["next"]}, 8)

"""A saved model opened by hand, and a backend that does what a test plants: without the package's own readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama2vec.model.golden import Golden, load_golden

KINDS = ("llama-paper", "llama-released", "llama-layers", "gpt2-paper", "gpt2-released", "llama-mean", "llama-no-bos")


@dataclass
class Saved:
    """A saved model, opened by hand."""

    folder: Path
    golden: Golden
    contract: dict[str, Any]
    model: Any
    tokenizer: Any

    @classmethod
    def open(cls, folder: Path) -> Saved:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        contract = json.loads((folder / "llama2vec.json").read_text(encoding="utf-8"))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return cls(
            folder, load_golden(folder, contract["hash"]), contract, model, AutoTokenizer.from_pretrained(folder)
        )

    def body(self, side: str, text: str) -> list[int]:
        limit = self.contract["encoder"][f"{side}_max_tokens"]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])[:limit]

    def suffix(self, side: str) -> list[int]:
        return list(self.contract["token_ids"]["suffixes"][self.contract["encoder"][f"{side}_prompt"]])

    def row(self, side: str, text: str) -> list[int]:
        return [*self.contract["token_ids"]["prefix"], *self.body(side, text), *self.suffix(side)]

    def hidden(self, ids: list[int], layer: int = -1) -> torch.Tensor:
        with torch.no_grad():
            output = self.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        return output.hidden_states[layer][0].double()  # type: ignore[no-any-return]

    def last(self, ids: list[int]) -> np.ndarray:
        """Mean of the last S states at unit length, whatever stands there."""
        return unit(self.hidden(ids)[-self.contract["token_ids"]["slots"] :].mean(dim=0))


def unit(vector: torch.Tensor) -> np.ndarray:
    return (vector / vector.norm().clamp(min=1e-12)).numpy().astype(np.float32)  # type: ignore[no-any-return]


Vectorize = Callable[[str, list[str]], Any]
"""(side, texts) → vectors."""


class Planted:
    """A backend that does what a function says."""

    name = "planted"
    unchecked: tuple[str, ...] = ()

    def __init__(self, give: Vectorize, *, live: bool = False) -> None:
        self.give, self.live = give, live

    def embed(self, side: str, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(self.give(side, list(texts)), dtype=np.float32)


def copy_of(saved: Saved, folder: Path) -> Path:
    """Copy a saved model to change it."""
    return Path(shutil.copytree(saved.folder, folder / "copy"))

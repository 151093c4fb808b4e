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
from llama2vec.verify.verification import Verification

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


def one_by_one(embed: Callable[[str, str], np.ndarray]) -> Callable[[str, list[str]], np.ndarray]:
    return lambda side, texts: np.stack([embed(side, text) for text in texts])


def names(found: Verification) -> list[str]:
    return [cause.fault for cause in found.causes]


def assert_names_only(found: Verification, name: str, sides: tuple[str, ...] = ("query", "passage")) -> None:
    assert not found.passed
    assert names(found) == [name], found.lines()
    assert tuple(found.causes[0].what) == sides
    assert found.causes[0].equal == (), found.lines()
    assert not found.hints
    assert any(line.startswith(f"cause: {name}: ") for line in found.lines())


# Each fault as a stack would have it, at the last layer: (model, side, text) → vector.


def slotless(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last(saved.row(side, text)[: -saved.contract["token_ids"]["slots"]])


def bare_last_token(saved: Saved, side: str, text: str) -> np.ndarray:
    return unit(saved.hidden([*saved.contract["token_ids"]["prefix"], *saved.body(side, text)])[-1])


def swapped(saved: Saved, side: str, text: str) -> np.ndarray:
    other = "passage" if side == "query" else "query"
    return saved.last([*saved.contract["token_ids"]["prefix"], *saved.body(side, text), *saved.suffix(other)])


def wordless(saved: Saved, side: str, text: str) -> np.ndarray:
    slots = saved.suffix(side)[-saved.contract["token_ids"]["slots"] :]
    return saved.last([*saved.contract["token_ids"]["prefix"], *saved.body(side, text), *slots])


def averaged(saved: Saved, side: str, text: str) -> np.ndarray:
    return unit(saved.hidden(saved.row(side, text)).mean(dim=0))


def without_bos(saved: Saved, side: str, text: str) -> np.ndarray:
    row = saved.row(side, text)
    assert row[0] == saved.tokenizer.bos_token_id
    return saved.last(row[1:])


def with_two_bos(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last([1, *saved.row(side, text)])


def with_two_eos(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last([*saved.row(side, text), saved.tokenizer.eos_token_id])


def below(saved: Saved, side: str, text: str) -> np.ndarray:
    return unit(saved.hidden(saved.row(side, text), layer=-2)[-saved.contract["token_ids"]["slots"] :].mean(dim=0))


def lowered(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last(saved.row(side, text.lower()))


def assert_unknown(found: Verification) -> None:
    assert not found.passed
    assert names(found) == []
    assert any("no single known cause" in line for line in found.lines())
    assert found.hints

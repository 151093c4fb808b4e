"""The contract read by hand, and as text for programs without prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planting import KINDS, Saved

from llama2vec.verify.plain import PlainModel

Models = Callable[[str], Saved]
Cli = Callable[..., tuple[int, str, str]]


def test_a_prompted_text_is_what_the_model_reads(saved_models: Models, cli: Cli, tmp_path: Path) -> None:
    for kind in ("llama-paper", "llama-released"):
        saved, texts = saved_models(kind), tmp_path / f"{kind}.jsonl"
        cli(saved.folder, "--export-texts", texts)
        rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").split("\n") if line]
        read = [saved.tokenizer(row["prompted"])["input_ids"] for row in rows]
        assert read == [saved.row(row["side"], row["text"]) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_read_to_the_letter_of_the_contract_gives_the_golden_vectors(saved_models: Models, kind: str) -> None:
    saved = saved_models(kind)
    plain = PlainModel(saved.folder, "float32", torch.device("cpu"))
    for side in ("query", "passage"):
        found = plain.embed(side, saved.golden.texts)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, saved.golden.vectors[side], atol=1e-5, rtol=0)  # type: ignore[index]

"""The contract read by hand, and as text for programs without prompts."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


def test_the_script_for_pooling_servers_sends_the_prefix_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ModuleType("openai")
    client.OpenAI = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openai", client)
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples" / "stacks")
    script = importlib.import_module("pooling_server")
    asked: list[list[int]] = []

    def create(input: list[list[int]], **options: object) -> SimpleNamespace:
        asked.extend(input)
        return SimpleNamespace(data=[SimpleNamespace(embedding=[1.0]) for _ in input])

    sides = {"query_prompt": "next", "passage_prompt": "self", "query_max_tokens": 2, "passage_max_tokens": 2}
    ids = {"prefix": [1], "next_prefix": [2, 3], "suffixes": {"next": [8], "self": [9]}, "slots": 1}
    server = SimpleNamespace(embeddings=SimpleNamespace(create=create))
    for side in ("query", "passage"):
        contract = {"encoder": sides, "token_ids": ids}
        script.embed(server, "model", contract, lambda texts, **_: {"input_ids": [[5, 6, 7]]}, side, ["a text"])
    assert asked == [[2, 3, 5, 6, 8], [1, 5, 6, 9]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_read_to_the_letter_of_the_contract_gives_the_golden_vectors(saved_models: Models, kind: str) -> None:
    saved = saved_models(kind)
    plain = PlainModel(saved.folder, "float32", torch.device("cpu"))
    for side in ("query", "passage"):
        found = plain.embed(side, saved.golden.texts)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, saved.golden.vectors[side], atol=1e-5, rtol=0)  # type: ignore[index]

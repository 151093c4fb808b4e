"""What only a GPU can show; skipped without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_a_gpu_gives_the_cpus_vectors(llama_folder: Path, sentences: list[str]) -> None:
    vectors = [
        Encoder.load(llama_folder, settings=ModelSettings(device=device, dtype="float32")).encode_passages(sentences)
        for device in ("cpu", "cuda")
    ]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-4


def test_bfloat16_vectors_stay_close_to_float32(llama_folder: Path, sentences: list[str]) -> None:
    vectors = [
        Encoder.load(llama_folder, settings=ModelSettings(device="cuda", dtype=dtype)).encode_passages(sentences)
        for dtype in ("float32", "bfloat16")
    ]
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("rank", [0, 4])
def test_adaptation_lowers_the_loss_on_a_gpu(
    rank: int, llama_folder: Path, corpus_rows: list[dict[str, str]], tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    config = AdaptConfig.model_validate(
        {
            "model": {"name": str(llama_folder), "device": "cuda", "lora": {"rank": rank}},
            "text": {"min_words": 4, "max_words": 20, "held_out": 0.0},
            "optimizer": {"steps": 30, "batch_size": 4, "learning_rate": 5e-3, "log_every": 5},
        }
    )
    passages = [Passage(row["_id"], row["text"]) for row in corpus_rows]
    adapt_model(config, tmp_path / "adapted", passages=passages)
    lines = (tmp_path / "adapted" / "log.jsonl").read_text(encoding="utf-8").strip().split("\n")
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines if '"learning_rate"' in line]
    assert losses[-1] < losses[0]

"""Which modules are gathered together, and checkpoints of another kind; the training itself is an end-to-end test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llama2vec.errors import TrainingError
from llama2vec.training.sharding import SHARES, ShardedModel, check_same_sharding, layers_of


def test_the_layers_are_the_largest_list_of_modules_of_one_kind(make_model: Any) -> None:
    for kind in ("llama", "gpt2", "gpt_neox"):
        model = make_model(kind)
        layers = layers_of(model)
        assert len(layers) == model.config.num_hidden_layers
        assert {type(layer).__name__ for layer in layers} <= {"LlamaDecoderLayer", "GPT2Block", "GPTNeoXLayer"}


def test_the_wrapper_runs_the_model_in_bfloat16_only_where_that_is_asked_for() -> None:
    model = torch.nn.Linear(4, 2)
    for mixed, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        wrapped = ShardedModel(model, torch.device("cpu"), mixed=mixed)
        assert wrapped(torch.ones(1, 4)).dtype == dtype
        assert wrapped.module is model


def test_a_checkpoint_is_resumed_with_the_sharding_it_was_written_with(tmp_path: Path) -> None:
    whole, shared = tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"
    whole.mkdir()
    (shared / SHARES).mkdir(parents=True)
    check_same_sharding(None, is_sharded=True)
    check_same_sharding(whole, is_sharded=False)
    check_same_sharding(shared, is_sharded=True)
    with pytest.raises(TrainingError, match=r"checkpoint-1: was .*sharding=none"):
        check_same_sharding(whole, is_sharded=True)
    with pytest.raises(TrainingError, match=r"checkpoint-2: was .*sharding=fsdp"):
        check_same_sharding(shared, is_sharded=False)

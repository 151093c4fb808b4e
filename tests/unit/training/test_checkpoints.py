"""Only whole checkpoints are resumed, and only finite weights are saved."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from llama2vec.errors import TrainingError
from llama2vec.training.checkpoints import (
    check_checkpoint,
    check_finite,
    has_checkpoint,
    last_checkpoint,
    mark_complete,
)


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / "checkpoints" / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(100)) * step)
    mark_complete(made)
    return made


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step, whole in ((4, True), (8, True), (12, False), (9, False)):
        folder = checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
        if whole:
            (folder / "complete.json").write_text("{}", encoding="utf-8")
    assert last_checkpoint(tmp_path) == checkpoints / "checkpoint-8"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_flipped_bit_sends_training_back_to_the_checkpoint_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier, newest = checkpoint(tmp_path, 4), checkpoint(tmp_path, 12)
    assert has_checkpoint(tmp_path)
    assert last_checkpoint(tmp_path) == newest
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[50] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"model.safetensors has changed since it was written"):
        check_checkpoint(newest)
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(tmp_path) == earlier
    assert "resuming from an earlier checkpoint" in caplog.text
    assert not newest.exists()


def test_a_checkpoint_without_one_of_its_files_is_not_resumed(tmp_path: Path) -> None:
    (checkpoint(tmp_path, 3) / "model.safetensors").unlink()
    assert last_checkpoint(tmp_path) is None
    assert not has_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_not_finite_is_named(value: float, dtype: torch.dtype) -> None:
    model = torch.nn.Linear(3, 2).to(dtype)
    check_finite(model, "step 1")
    with torch.no_grad():
        model.weight[1, 2] = value
    with pytest.raises(TrainingError, match=r"step 1: the weight weight is not finite and was not saved"):
        check_finite(model, "step 1")

"""Only whole checkpoints are resumed, only finite weights are saved, and the log is cut where training resumes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from llama2vec.errors import TrainingError
from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.state import (
    check_checkpoint,
    check_finite,
    draw_losses,
    has_checkpoint,
    last_checkpoint,
    mark_complete,
    remove_older,
    step_size_kept,
    truncate_log,
)


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / "checkpoints" / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(100)) * step)
    mark_complete(made, 16)
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


def test_the_log_is_cut_behind_the_step_that_training_resumes_from(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"step": step, "loss": 1.0 / step} for step in (2, 4, 6, 8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo', encoding="utf-8")
    truncate_log(path, 6)
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [2, 4, 6]
    truncate_log(path, 0)
    assert path.read_text(encoding="utf-8") == ""
    truncate_log(tmp_path / "none.jsonl", 6)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_log_of_one_line_still_draws_a_picture(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n', encoding="utf-8")
    draw_losses(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [20]), (2, None, [16, 20]), (9, None, [4, 8, 12, 16, 20]), (1, 4, [4, 20]), (2, 4, [4, 20]),
     (3, 4, [4, 16, 20]), (2, 20, [16, 20]), (1, 99, [20])],
)  # fmt: skip
def test_the_newest_and_the_best_checkpoints_are_kept(
    tmp_path: Path, keep: int, best: int | None, left: list[int]
) -> None:
    for step in (4, 8, 12, 16):
        checkpoint(tmp_path, step)
    remove_older(checkpoint(tmp_path, 20), keep, best)
    assert sorted(int(path.name[11:]) for path in (tmp_path / "checkpoints").iterdir()) == left


def test_a_training_resumed_by_more_processes_keeps_the_size_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OptimizerSettings(batch_size=4, accumulation=2)
    assert step_size_kept(settings, tmp_path, "batch_size") is settings  # Nothing to resume from
    checkpoint(tmp_path, 2)
    monkeypatch.setattr("llama2vec.training.state.process_count", lambda: 2)
    assert step_size_kept(settings, tmp_path, "batch_size") is settings
    monkeypatch.setattr("llama2vec.training.state.process_count", lambda: 4)
    assert step_size_kept(settings, tmp_path, "batch_size").batch_size == 2
    assert step_size_kept(settings, tmp_path, "accumulation").accumulation == 1
    monkeypatch.setattr("llama2vec.training.state.process_count", lambda: 3)
    with pytest.raises(TrainingError, match="steps of 16 examples, which 3 processes cannot share"):
        step_size_kept(settings, tmp_path, "accumulation")

"""The weights that a training saves may be the mean of those at its last checkpoints."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fit_line import EXAMPLES, FitLine, Line, settings
from pydantic import ValidationError
from safetensors.torch import load_file

from llama2vec.config import load_config
from llama2vec.errors import ConfigError, TrainingError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.training import loop
from llama2vec.training.loop import train
from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.state import read_log


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fast_paths", lambda *_, **__: nullcontext())
    monkeypatch.setattr(loop, "draw_losses", lambda *_: None)


def averaged(folder: Path, **changes: int) -> Line:
    model = Line()
    wanted = settings(steps=8, save_every=2, **changes)
    result = train(model, EXAMPLES[:-3], EXAMPLES[-3:], FitLine(), wanted, folder)
    assert result.steps == 8
    return model


def of_checkpoint(folder: Path, step: int) -> torch.Tensor:
    return load_file(folder / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")["linear.weight"]


def test_the_weights_are_the_mean_of_the_last_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llama2vec")
    model = averaged(tmp_path, average_last=3, keep_checkpoints=1)
    expected = torch.stack([of_checkpoint(tmp_path, step) for step in (4, 6, 8)]).mean(dim=0)
    torch.testing.assert_close(model.linear.weight.detach(), expected, rtol=0, atol=1e-7)
    assert "the weights are the mean of those at steps 4, 6, 8" in caplog.text
    assert not (tmp_path / "checkpoints" / "checkpoint-2").exists()


def test_the_figures_are_those_of_the_mean(tmp_path: Path) -> None:
    model = Line()
    wanted = settings(steps=8, save_every=2, average_last=3)
    result = train(model, EXAMPLES[:-3], EXAMPLES[-3:], FitLine(), wanted, tmp_path)
    own = loop.mean_loss(FitLine(), model, EXAMPLES[-3:], 4)["loss"]
    assert result.losses["validation_loss"] == pytest.approx(own)
    [last] = [line for line in read_log(tmp_path / "log.jsonl") if line["step"] == 8 and "validation_loss" in line]
    assert last["validation_loss"] != pytest.approx(own), "the log shows the last weights"


def test_a_finished_training_that_was_killed_before_it_was_saved_ends_the_same(tmp_path: Path) -> None:
    first = averaged(tmp_path, average_last=3)
    again = averaged(tmp_path, average_last=3)
    assert torch.equal(first.linear.weight, again.linear.weight)


def test_fewer_checkpoints_than_asked_for_are_averaged_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = averaged(tmp_path, average_last=9)
    expected = torch.stack([of_checkpoint(tmp_path, step) for step in (2, 4, 6, 8)]).mean(dim=0)
    torch.testing.assert_close(model.linear.weight.detach(), expected, rtol=0, atol=1e-7)
    assert "optimizer.average_last is 9, but there are only 4 checkpoints" in caplog.text


def test_a_damaged_checkpoint_is_not_averaged(tmp_path: Path) -> None:
    averaged(tmp_path, average_last=3)
    (tmp_path / "checkpoints" / "checkpoint-4" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(TrainingError, match="checkpoint-4"):
        averaged(tmp_path, average_last=3)


def test_other_choices_of_weights_are_refused() -> None:
    with pytest.raises(ValidationError, match="average_last needs whole weights"):
        OptimizerSettings(average_last=2, sharding="fsdp")
    with pytest.raises(ConfigError, match=r"validation\.keep_best to false"):
        load_config(FinetuneConfig, None, ["optimizer.average_last=2"])
    chosen = load_config(FinetuneConfig, None, ["optimizer.average_last=2", "validation.keep_best=false"])
    assert chosen.optimizer.average_last == 2


def test_plans_of_earlier_versions_stay() -> None:
    assert "average_last" not in OptimizerSettings().model_dump()

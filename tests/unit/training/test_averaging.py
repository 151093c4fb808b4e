"""The weights that a training saves may be the mean of those at its last checkpoints."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fit_line import EXAMPLES, FitLine, Line, settings
from safetensors.torch import load_file

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.errors import ConfigError, SettingsError, TrainingError
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


@pytest.mark.parametrize(
    ("steps", "save_every", "last", "expected"),
    [(8, 2, 3, [4, 6, 8]), (7, 2, 3, [4, 6, 7]), (8, 50, 1, [8]), (101, 50, 3, [50, 100, 101])],
)
def test_the_last_checkpoint_may_follow_sooner(steps: int, save_every: int, last: int, expected: list[int]) -> None:
    assert OptimizerSettings(steps=steps, save_every=save_every, average_last=last).averaged_steps() == expected


@pytest.mark.parametrize("given", [[], ["optimizer.steps=50"], ["optimizer.steps=100"], ["optimizer.save_every=16"]])
def test_more_checkpoints_than_the_steps_leave_are_refused_with_the_settings(given: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"optimizer: average_last is 3, but save_every = \d+ makes only [12] checkp"):
        load_config(AdaptConfig, None, ["optimizer.average_last=3", *given])
    enough = load_config(AdaptConfig, None, ["optimizer.average_last=3", "optimizer.steps=101"])
    assert enough.optimizer.averaged_steps() == [50, 100, 101]


def test_steps_that_follow_from_epochs_are_checked_before_they_are_taken(tmp_path: Path) -> None:
    given = ["optimizer.average_last=3", "validation.keep_best=false", "optimizer.batch_size=4"]
    chosen = load_config(FinetuneConfig, None, given).optimizer
    resolved = chosen.model_copy(update={"steps": 20})
    with pytest.raises(TrainingError, match=r"^optimizer\.average_last is 3, but .* only 1 checkpoint in 20 steps"):
        train(Line(), EXAMPLES, [], FitLine(), resolved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_found_before_the_remaining_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = FitLine(bad_call=7)
    with pytest.raises(TrainingError, match="step 7: the loss is nan"):
        train(Line(), EXAMPLES[:-3], [], killed, settings(steps=8, save_every=2, average_last=3), tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors").write_bytes(b"no part of the mean")
    weights = tmp_path / "checkpoints" / "checkpoint-4" / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (lambda: weights.write_bytes(b"cut"), weights.unlink):
        weights.write_bytes(whole)
        damage()
        with monkeypatch.context() as patched:
            patched.setattr(FitLine, "loss", lambda *_: pytest.fail("a step was taken"))
            with pytest.raises(TrainingError, match=r"checkpoint-4: .*delete it and the later ones"):
                averaged(tmp_path, average_last=3)
    weights.write_bytes(whole)
    assert averaged(tmp_path, average_last=3)


def test_only_what_the_weights_are_loaded_from_has_to_be_whole(tmp_path: Path) -> None:
    first = averaged(tmp_path, average_last=3)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-4"
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt"):
        (checkpoint / name).write_bytes(b"cut")
    (checkpoint / "rng_state.pth").unlink()
    assert torch.equal(averaged(tmp_path, average_last=3).linear.weight, first.linear.weight)
    (checkpoint / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(TrainingError, match="checkpoint-4"):
        averaged(tmp_path, average_last=3)


def test_other_choices_of_weights_are_refused() -> None:
    with pytest.raises(SettingsError, match="average_last needs whole weights"):
        OptimizerSettings(average_last=2, sharding="fsdp")
    with pytest.raises(ConfigError, match=r"^--set: optimizer\.average_last and .*keep_best to false"):
        load_config(FinetuneConfig, None, ["optimizer.average_last=2"])
    chosen = load_config(FinetuneConfig, None, ["optimizer.average_last=2", "validation.keep_best=false"])
    assert chosen.optimizer.average_last == 2


def test_plans_of_earlier_versions_stay() -> None:
    assert "average_last" not in OptimizerSettings().model_dump()

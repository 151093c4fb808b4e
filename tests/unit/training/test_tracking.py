"""Curves in other programs: the right numbers, one run over a resume, and one line where a package is missing."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fit_line import EXAMPLES, FitLine, Line, settings

from llama2vec.errors import MissingDependencyError, TrainingError
from llama2vec.training import loop, tracking
from llama2vec.training.loop import train
from llama2vec.training.settings import TrackingSettings
from llama2vec.training.state import read_log
from llama2vec.training.tracking import Tracking, check_trackers


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "fast_paths", lambda *_, **__: nullcontext())
    monkeypatch.setattr(loop, "draw_losses", lambda *_: None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def run(folder: Path, tracker: str, bad_call: int = 0) -> None:
    made = Tracking(TrackingSettings(report_to=tracker), "tuned", {"settings": {"seed": 0}})
    train(Line(), EXAMPLES[:-3], EXAMPLES[-3:], FitLine(bad_call), settings(), folder, tracking=made)


def stopped_and_resumed(folder: Path, tracker: str) -> None:
    """Stop at step 7, after the checkpoint of step 4 and the log line of step 6, and go on."""
    # Each validation reads the held-out examples once.
    with pytest.raises(TrainingError, match="step 7: the loss is nan"):
        run(folder, tracker, bad_call=8)
    assert [line["step"] for line in read_log(folder / "log.jsonl") if "loss" in line] == [2, 4, 6]
    run(folder, tracker)


def test_tensorboard_shows_what_the_log_says_over_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stopped_and_resumed(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    log = read_log(tmp_path / "log.jsonl")
    for shown, logged in (
        ("train/loss", "loss"), ("train/loss_line", "loss_line"), ("train/learning_rate", "learning_rate"),
        ("eval/loss", "validation_loss"), ("eval/loss_line", "validation_loss_line"),
    ):  # fmt: skip
        expected = {line["step"]: line[logged] for line in log if logged in line}
        assert len(expected) == (4 if shown.startswith("train") else 2)
        found = [(event.step, event.value) for event in events.Scalars(shown)]
        assert [step for step, _ in found] == list(expected)
        assert [value for _, value in found] == pytest.approx(list(expected.values()), rel=1e-5, abs=1e-6)


def test_trackio_continues_its_run(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    stopped_and_resumed(tmp_path / "out", "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    names = SQLiteStorage.get_runs("llama2vec")
    assert len(names) == 1
    name = names[0] if isinstance(names[0], str) else names[0]["name"]
    assert name.startswith("tuned-")
    rows = SQLiteStorage.get_logs("llama2vec", name)
    assert {2, 4, 6, 8} <= {row.get("train/global_step") for row in rows if "train/loss" in row}


def test_wandb_continues_its_run_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    stopped_and_resumed(tmp_path / "out", "wandb")
    mark = tracking.read_object(tmp_path / "out" / "tracking.json")["run"]  # type: ignore[index]
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert runs
    assert all(name.endswith(mark) for name in runs)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in that remembers how runs begin and end."""
    made: Any = ModuleType("wandb")
    made.begun, made.ended = [], []
    made.init = lambda **given: made.begun.append(given)
    made.finish = lambda: made.ended.append(len(made.begun))
    monkeypatch.setitem(sys.modules, "wandb", made)
    monkeypatch.setattr("transformers.integrations.WandbCallback", lambda: loop.TrainerCallback())
    return made


def test_a_run_of_wandb_has_one_id_over_a_resume_and_a_new_one_in_a_new_folder(wandb: Any, tmp_path: Path) -> None:
    stopped_and_resumed(tmp_path / "one", "wandb")
    run(tmp_path / "two", "wandb")
    ids = [given["id"] for given in wandb.begun]
    assert ids[0] == ids[1] != ids[2]
    assert wandb.ended == [1, 2, 3]
    first = wandb.begun[0]
    assert (first["project"], first["resume"], first["name"]) == ("llama2vec", "allow", f"tuned-{ids[0]}")
    assert first["config"]["settings"] == {"seed": 0}


def test_a_run_that_cannot_begin_is_one_line(wandb: Any, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured\n(no-tty)")

    wandb.init = refuse
    with pytest.raises(
        TrainingError, match=r"wandb cannot begin a run \(api_key not configured \(no-tty\)\); run `wandb"
    ):
        run(tmp_path, "wandb")


def test_weights_do_not_depend_on_trackers(wandb: Any, tmp_path: Path) -> None:
    run(tmp_path / "with", "wandb")
    run(tmp_path / "without", "none")
    files = [next((tmp_path / name).rglob("checkpoint-8/*.safetensors")) for name in ("with", "without")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "without" / "tracking.json").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "wandb" else object())
    check_trackers(TrackingSettings(report_to=["tensorboard", "none"]))
    with pytest.raises(MissingDependencyError, match="wandb is not installed; run: pip install wandb"):
        check_trackers(TrackingSettings(report_to=["tensorboard", "wandb"]))

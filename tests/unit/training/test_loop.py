"""The training loop: its order, its log, and what it does when something goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_line import EXAMPLES, FitLine, Line, settings

from llama2vec.errors import TrainingError
from llama2vec.training import loop, state
from llama2vec.training.loop import mean_loss, train
from llama2vec.training.orders import EpochOrder
from llama2vec.training.state import last_checkpoint, read_log
from llama2vec.training.steps import COUNTS


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # A line is no transformer that could be made faster.
    monkeypatch.setattr(loop, "fast_paths", lambda *_, **__: nullcontext())
    # Drawing takes longer than all of these trainings; two tests look at it.
    if "picture" not in request.node.name and "tells_the_facts" not in request.node.name:
        monkeypatch.setattr(loop, "draw_losses", lambda *_: None)


def run(folder: Path, objective: FitLine | None = None, **changes: Any) -> tuple[loop.TrainingResult, Line]:
    model = Line()
    result = train(model, EXAMPLES[:-3], EXAMPLES[-3:], objective or FitLine(), settings(**changes), folder)
    return result, model


def test_training_lowers_the_loss_and_tells_the_facts(tmp_path: Path) -> None:
    result, model = run(tmp_path, steps=40, log_every=10, save_every=40, validate_every=20)
    log = read_log(tmp_path / "log.jsonl")
    assert result.steps == 40
    assert result.losses["loss"] == log[-1]["loss"]
    assert {"loss", "loss_line", "validation_loss", "validation_loss_line"} <= result.losses.keys()
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    assert [line["step"] for line in log if "loss" in line] == [10, 20, 30, 40]
    assert [line["step"] for line in log if "validation_loss" in line] == [20, 40]
    assert {"step", "loss", "loss_line", "learning_rate", "gradient_norm", "seconds"} <= log[0].keys()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not any(weight.isnan().any() for weight in model.parameters())


def test_every_checkpoint_and_the_last_step_bring_a_log_line(tmp_path: Path) -> None:
    result, _ = run(tmp_path, steps=7, log_every=5, save_every=3)
    log = [line for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert [line["step"] for line in log] == [3, 5, 6, 7]
    assert result.losses["loss"] == log[-1]["loss"]


def test_a_whole_checkpoint_exists_at_every_moment_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[int] = []
    mark = state.mark_complete

    def watch(checkpoint: Path, examples_a_step: int) -> None:
        whole.append(len(list(tmp_path.glob("checkpoints/checkpoint-*/complete.json"))))
        mark(checkpoint, examples_a_step)

    monkeypatch.setattr(state, "mark_complete", watch)
    run(tmp_path, save_every=2, keep_checkpoints=1)
    assert whole == [0, 1, 1, 1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-8"]


def test_the_logged_parts_are_the_mean_since_the_last_line(tmp_path: Path) -> None:
    run(tmp_path)
    for line in read_log(tmp_path / "log.jsonl"):
        if "loss" in line:
            assert line["loss_line"] == pytest.approx(line["loss"], rel=1e-4)


def test_validation_is_at_the_end_only_where_it_is_switched_off(tmp_path: Path) -> None:
    run(tmp_path, validate_every=0)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl") if "validation_loss" in line] == [8]


def test_validation_draws_no_random_number_and_leaves_the_weights(tmp_path: Path) -> None:
    _, often = run(tmp_path / "often", validate_every=1)
    _, seldom = run(tmp_path / "seldom", validate_every=0)
    assert torch.equal(often.linear.weight, seldom.linear.weight)


def test_two_runs_with_one_seed_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    _, first = run(tmp_path / "a")
    _, second = run(tmp_path / "b")
    _, other = run(tmp_path / "c", seed=1)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_accumulated_micro_batches_move_the_weights_like_one_batch(tmp_path: Path) -> None:
    one, two = Line(), Line()
    even = [1.0] * 16
    train(one, even, [], FitLine(), settings(steps=3, batch_size=4, accumulation=1), tmp_path / "one")
    train(two, even, [], FitLine(), settings(steps=3, batch_size=2, accumulation=2), tmp_path / "two")
    torch.testing.assert_close(one.linear.weight, two.linear.weight, rtol=1e-5, atol=1e-6)
    lines = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    assert [line["loss"] for line in lines[0] if "loss" in line] == pytest.approx(
        [line["loss"] for line in lines[1] if "loss" in line], rel=1e-4
    )


def test_a_loss_that_is_not_a_number_stops_with_the_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 6: the loss is nan.*learning_rate"):
        run(tmp_path, FitLine(bad_call=6 + 1))  # one call more: the validation behind step 4
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "checkpoint-4"


def test_weights_that_blow_up_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d: .* not finite"):
        run(
            tmp_path,
            learning_rate=1e300,
            steps=2,
            save_every=1,
            schedule="constant",
            warmup=0,
            max_grad_norm=1.0,
        )
    assert last_checkpoint(tmp_path) is None


def test_fewer_examples_than_one_batch_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"one batch of 4 is more than the 3 training examples"):
        train(Line(), EXAMPLES[:3], [], FitLine(), settings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# An epoch has 5 steps: checkpoints inside, on and behind its border; log lines that do and do not meet checkpoints.
@pytest.mark.parametrize(("save_every", "log_every"), [(4, 2), (5, 5), (2, 5)])
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path, save_every: int, log_every: int) -> None:
    changes = {"steps": 11, "save_every": save_every, "log_every": log_every}
    _, whole = run(tmp_path / "whole", **changes)
    with pytest.raises(TrainingError):
        run(tmp_path / "stopped", FitLine(bad_call=8), **changes)
    # A line cut short by a kill, and one behind the checkpoint.
    with (tmp_path / "stopped" / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    _, again = run(tmp_path / "stopped", **changes)
    assert torch.equal(whole.linear.weight, again.linear.weight)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "stopped")]
    for lines in logs:
        for line in lines:
            line.pop("seconds")
    assert logs[0] == logs[1]


def test_a_part_of_the_loss_is_averaged_over_the_chunks_that_have_it() -> None:
    class Parts(FitLine):
        def loss(self, model: Line, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
            rows = len(batch["x"])
            return torch.tensor(float(rows)), {"loss_self": 2.0, **({"loss_next": 5.0} if rows == 4 else {})}

    found = mean_loss(Parts(), Line(), EXAMPLES[:6], 4)
    assert found == {"loss": pytest.approx((4 * 4 + 2 * 2) / 6), "loss_self": 2.0, "loss_next": 5.0}


class Marked(FitLine):
    """Learn from the positive examples alone: a mean over those of the whole step."""

    def collate(self, examples: Sequence[float]) -> dict[str, Any]:
        return {**super().collate(examples), COUNTS: {"loss_line": sum(one > 0 for one in examples)}}

    def loss(self, model: Line, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
        x = batch["x"]
        loss = ((model.linear(x) - 3 * x).square() * (x > 0)).sum() / max(batch[COUNTS]["loss_line"], 1e-9)
        return loss, {"loss_line": loss.item()}


def test_accumulated_batches_count_over_the_whole_step(tmp_path: Path) -> None:
    examples = [1.0, 0.9, 0.8, -0.7, -0.6, -0.5, 0.4, -0.3] * 2
    logs = []
    for size in (8, 4, 2):
        model = Line()
        changes = {"steps": 2, "batch_size": size, "accumulation": 8 // size, "log_every": 1, "seed": 0}
        objective = Marked()
        objective.order = lambda rows, _: InOrder(len(rows))  # type: ignore[method-assign, assignment]
        train(model, examples, examples[:8], objective, settings(**changes), tmp_path / str(size))
        logs.append(
            [{k: v for k, v in one.items() if k != "seconds"} for one in read_log(tmp_path / str(size) / "log.jsonl")]
        )
    for log in logs[1:]:
        for one, other in zip(log, logs[0], strict=True):
            assert one == pytest.approx(other, rel=1e-4)


class InOrder(EpochOrder):
    """Rows as they come."""

    def __init__(self, rows: int) -> None:
        super().__init__(0)
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rows))

    def __len__(self) -> int:
        return self.rows


@pytest.mark.parametrize("given", ["bf16", "fp16"])
def test_the_precision_that_a_launcher_exports_changes_no_loss(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", given)
    with caplog.at_level("INFO"):
        run(tmp_path / "launched")
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("plain", "launched")]
    for line in (*logs[0], *logs[1]):
        line.pop("seconds")
    assert logs[0] == logs[1]
    assert f"ACCELERATE_MIXED_PRECISION={given} in the environment is ignored" in caplog.text


def test_a_training_says_how_many_processes_share_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(tmp_path, accumulation=2)
    assert "training on 1 process, 8 examples a step" in caplog.text


@pytest.mark.parametrize("steps", [8, 7, 5])
def test_a_finished_training_takes_no_step_more(tmp_path: Path, steps: int) -> None:
    # As when a process is killed between the last checkpoint and the saved encoder.
    first, model = run(tmp_path, steps=steps)
    log = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    objective = FitLine()
    again, loaded = run(tmp_path, objective, steps=steps)
    assert objective.calls == 0
    assert torch.equal(model.linear.weight, loaded.linear.weight)
    assert (again.steps, again.losses) == (steps, first.losses)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == log


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        # Steps 1 to 3 warm up. `linear` falls by one of 7 parts a step and would be 0 at step 11.
        ("linear", [0, 1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ("constant", [0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0, 1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * part / 7)) for part in range(7))]),
    ],
)
def test_the_learning_rate_rises_over_the_warm_up_and_follows_its_schedule(
    schedule: str, shares: list[float], tmp_path: Path
) -> None:
    changes = {"steps": 10, "warmup": 0.3, "log_every": 1, "schedule": schedule}
    train(Line(), EXAMPLES, [], FitLine(), settings(**changes), tmp_path)
    rates = [line["learning_rate"] for line in read_log(tmp_path / "log.jsonl") if "learning_rate" in line]
    assert rates == pytest.approx([settings().learning_rate * share for share in shares])

"""The one training loop, over transformers.Trainer: what a stage optimizes, and what is written down at each step."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler, get_worker_info
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from llama2vec.errors import TrainingError
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.speed import fast_paths
from llama2vec.processes import from_all, on_first_process, process_count, wait_for_all
from llama2vec.terminal import ProgressReporter, counted
from llama2vec.training import state as saved
from llama2vec.training.averaging import average_checkpoints, checkpoints_to_average
from llama2vec.training.checkpoints import WholeCheckpoints
from llama2vec.training.orders import EpochOrder
from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.sharding import ShardedTraining, check_same_sharding, sharded
from llama2vec.training.state import LOG_FILE, LOSS_PLOT, draw_losses, read_log, truncate_log, validation_at
from llama2vec.training.steps import COUNTS, share_counts
from llama2vec.training.tracking import Tracking

logger = logging.getLogger(__name__)

_TRAINER_STATE = "trainer_state.json"
_OF_TRANSFORMERS = ("loss", "learning_rate", "grad_norm", "epoch")
_LAUNCHERS_PRECISION = "ACCELERATE_MIXED_PRECISION"
_SCHEDULES = {"constant": "constant_with_warmup"}  # What transformers calls constant has no warm-up


class _Objective(Protocol):
    """What a stage optimizes."""

    def order(self, examples: Sequence[Any], settings: OptimizerSettings) -> EpochOrder: ...  # how they are read
    def collate(self, examples: Sequence[Any]) -> Mapping[str, Any]: ...  # in the data workers
    def loss(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]: ...  # and its named parts
    def validate(self, model: Any, held_out: Sequence[Any], batch_size: int) -> dict[str, float]: ...  # no random draw


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training: steps in all, last losses and validation figures, and the step of the final weights."""

    steps: int
    losses: dict[str, float]
    best_step: int

    def facts(self, started: float) -> dict[str, Any]:
        """Return what a manifest says of the training; ``started`` is when the work began (``time.monotonic``)."""
        return {"steps": self.steps, "seconds": round(time.monotonic() - started, 1), "losses": self.losses}


class _Collator:
    """The objective's collation, here or in a data worker."""

    def __init__(self, objective: _Objective) -> None:
        self._objective = objective

    def __call__(self, examples: Sequence[Any]) -> Mapping[str, Any]:
        if get_worker_info() is not None:
            # A forked worker has the tokenizer's thread pool, and none of its threads: it would wait for them forever.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        return self._objective.collate(examples)


class _ObjectiveTrainer(ShardedTraining, WholeCheckpoints, Trainer):  # type: ignore[misc]
    """A Trainer whose loss comes from an :class:`_Objective`; it sums the parts between two log lines."""

    def __init__(self, objective: _Objective, order: EpochOrder, **arguments: Any) -> None:
        super().__init__(data_collator=_Collator(objective), **arguments)
        self.objective, self.order, self.model_accepts_loss_kwargs = objective, order, False
        self.parts: dict[str, list[float]] = {}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def get_batch_samples(self, *arguments: Any, **named: Any) -> tuple[list[Any], Any]:
        """Take the batches of a step, and count over all of them what the parts of the loss are means over."""
        batches, items = super().get_batch_samples(*arguments, **named)
        return share_counts(batches, self.args.device), items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss for everything that logs."""
        if "loss" in logs:
            own = {name: sum(values) / len(values) for name, values in self.parts.items() if values}
            self.parts.clear()
            logs |= _means(from_all(own))
        super().log(logs, start_time)

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Tensor:
        loss, parts = self.objective.loss(model, inputs)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; lower optimizer.learning_rate "
                f"(the last good checkpoint is kept in {self.args.output_dir})"
            )
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)
        return loss


class _Recorder(TrainerCallback):  # type: ignore[misc]
    """Write the JSON log, drive the progress bar, validate, and mark checkpoints as complete."""

    def __init__(
        self, folder: Path, validate: Callable[[], dict[str, float]], settings: OptimizerSettings, best: str
    ) -> None:
        self.trainer: _ObjectiveTrainer  # Which takes this recorder when it is made
        self.folder, self.validate, self.best = folder, validate, best
        self.every, self.keep = settings.validate_every, max(settings.keep_checkpoints, settings.average_last)
        self.examples_a_step = settings.batch_size * settings.accumulation * process_count()
        self.progress = ProgressReporter("training", "step")
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.monotonic()
        self.restore(state.global_step)
        self.progress.start(total=state.max_steps, completed=state.global_step)

    def restore(self, step: int) -> None:
        """Go back to what the log said at a step."""
        log = self.folder / LOG_FILE
        truncate_log(log, step)
        for line in read_log(log):
            self.last |= {name: value for name, value in line.items() if name.startswith(("loss", "validation_"))}

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # accelerate does not reach the order through its own wrappers when several processes resume inside an epoch.
        self.trainer.order.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        self.progress.advance(1)
        if (self.every and step % self.every == 0) or step == state.max_steps:
            found = self.validated()
            if found:
                self.last |= found
                self._write({"step": step, **found}, state)
                self._show(found)
            if self.best in found and (state.best_metric is None or found[self.best] > state.best_metric):
                # transformers keeps the checkpoint that its state names.
                state.best_metric, state.best_global_step = found[self.best], step
                control.should_save = True
        # A log line that spanned a checkpoint would average fewer steps after a resume.
        control.should_log |= control.should_save
        if control.should_save:
            saved.check_finite(self.trainer.model, f"step {step}")

    def validated(self) -> dict[str, float]:
        """Validate once for all processes, which must agree on the best step; only together can they read shares."""
        if self.trainer.wrapped is None:
            return on_first_process(self.validate)
        found = self.validate()
        return on_first_process(lambda: found)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        parts = {name: value for name, value in logs.items() if name not in _OF_TRANSFORMERS}
        line = {"step": state.global_step, "loss": logs["loss"], **parts}
        line |= {"learning_rate": logs["learning_rate"], "gradient_norm": logs["grad_norm"]}
        self.last |= {name: value for name, value in line.items() if name.startswith("loss")}
        self.progress.describe(" ".join(f"{name} {value:.3f}" for name, value in self.last.items()))
        self._write(line, state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Each process writes a part; only a checkpoint that all have finished is marked as complete.
        wait_for_all()
        if state.is_world_process_zero:
            checkpoint = saved.checkpoint_at(self.folder, state.global_step)
            saved.mark_complete(checkpoint, self.examples_a_step)
            saved.remove_older(checkpoint, self.keep, state.best_global_step)

    def _show(self, found: Mapping[str, float]) -> None:
        """Give the figures of a validation to the trackers, which know them as ``eval``."""
        named = {f"eval_{name.removeprefix('validation_')}": value for name, value in found.items()}
        trainer = self.trainer
        # Its own on_log would forget that a log line is due.
        trainer.callback_handler.call_event("on_log", trainer.args, trainer.state, trainer.control, logs=named)

    def _write(self, line: dict[str, float], state: Any) -> None:
        line = {**line, "seconds": round(time.monotonic() - self.started, 2)}
        if state.is_world_process_zero:
            with (self.folder / LOG_FILE).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")


def _run(
    trainer: _ObjectiveTrainer, recorder: _Recorder, settings: OptimizerSettings, checkpoint: Path | None,
    tracking: Tracking,
) -> int:  # fmt: skip
    """Train from a checkpoint on, load or average the weights to save, and return the step of the newest of them."""
    if checkpoint and saved.step_of(checkpoint) >= settings.steps:
        # transformers would take one step more; only the weights are wanted.
        trainer.state = TrainerState.load_from_json(str(checkpoint / _TRAINER_STATE))
        trainer._load_from_checkpoint(str(checkpoint))
        recorder.restore(settings.steps)
        if trainer.is_world_process_zero():  # what a kill right after the last checkpoint left
            saved.remove_older(checkpoint, recorder.keep, trainer.state.best_global_step)
    else:
        with tracking.started(recorder.folder, saved.step_of(checkpoint) if checkpoint else 0) as trackers:
            for tracker in trackers:
                trainer.add_callback(tracker)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    best_step = int(trainer.state.best_global_step or settings.steps)
    if best_step != settings.steps:
        best_checkpoint = saved.checkpoint_at(recorder.folder, best_step)
        saved.check_checkpoint(best_checkpoint)
        trainer._load_from_checkpoint(str(best_checkpoint))
        recorder.last |= validation_at(recorder.folder / LOG_FILE, best_step)
    elif settings.average_last > 1:
        wait_for_all()  # The first process marks the last checkpoint as complete
        average_checkpoints(
            trainer.model,
            lambda checkpoint: trainer._load_from_checkpoint(str(checkpoint)),
            checkpoints_to_average(recorder.folder, settings, settings.steps),
        )
        recorder.last |= recorder.validated()
    return best_step


def _means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average named figures of several processes, each over those that have it."""
    found: dict[str, list[float]] = {}
    for one in parts:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def train(
    model: Any,
    examples: Sequence[Any],
    held_out: Sequence[Any],
    objective: _Objective,
    settings: OptimizerSettings,
    folder: Path,
    *,
    best: str = "",
    **options: Any,
) -> TrainingResult:
    """Train a model in place; rerun after a kill, it ends with the same weights, bit for bit on a CPU.

    ``model`` is a (peft) model of transformers on its device; ``folder`` receives ``log.jsonl``, ``loss.png`` and
    ``checkpoints/``; ``best`` names the validation figure whose highest value picks the final weights, such as
    ``validation_ndcg@10`` ("" = the last ones); ``options`` are ``bf16`` (autocast over float32 weights),
    ``gradient_checkpointing``, ``compile``, ``find_unused`` (several processes: some weights get no gradient), and
    ``tracking``, which shows the curves elsewhere.

    Raises:
        TrainingError: Fewer examples than one batch for each process, fewer checkpoints than are to be averaged, a
            damaged one among these, or a loss that is not finite.
    """
    check_enough(len(examples), settings)
    folder.mkdir(parents=True, exist_ok=True)

    def validate() -> dict[str, float]:
        return _validate(trainer.wrapped or model, held_out, objective, settings.batch_size)

    recorder = _Recorder(folder, validate, settings, best)
    trainer = _ObjectiveTrainer(
        objective, objective.order(examples, settings), model=model, train_dataset=examples, callbacks=[recorder],
        args=_arguments(settings, folder, model.device, options),
    )  # fmt: skip
    recorder.trainer = trainer
    processes = counted(process_count(), "process", "processes")
    logger.info("training on %s, %s a step", processes, counted(recorder.examples_a_step, "example"))
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    checkpoint = saved.last_checkpoint(folder)
    if checkpoint:
        logger.info("resuming from %s", checkpoint)
    is_sharded = settings.sharding == "fsdp"
    check_same_sharding(checkpoint, is_sharded=is_sharded)
    if checkpoint and settings.average_last > 1:  # A damaged one shows before the remaining steps
        checkpoints_to_average(folder, settings, saved.step_of(checkpoint))
    compiled = options.pop("compile", False)
    with fast_paths(model, compiled=compiled), quiet_transformers(), recorder.progress, ExitStack() as stack:
        if is_sharded:
            mixed = options.get("bf16", False)
            trainer.wrapped = stack.enter_context(sharded(model, mixed=mixed, offload=settings.offload))
        best_step = _run(trainer, recorder, settings, checkpoint, options.get("tracking") or Tracking())
    if trainer.is_world_process_zero():
        draw_losses(folder / LOG_FILE, folder / LOSS_PLOT)
    return TrainingResult(trainer.state.global_step, recorder.last, best_step)


def check_enough(examples: int, settings: OptimizerSettings, *, some_held_out: bool = False) -> None:
    """Raise a TrainingError unless there is a whole batch for every process, and its steps leave what is averaged."""
    if examples < settings.batch_size * process_count():
        needed = f"one batch of {settings.batch_size}" + (" per process" if process_count() > 1 else "")
        apart = " beside those held out (validation.share)" if some_held_out else ""
        there = f"{counted(examples, 'training example')}{apart}"
        raise TrainingError(f"{needed} is more than the {there}; give more of them or lower optimizer.batch_size")
    if lacking := settings.lacking_checkpoints():
        raise TrainingError(f"optimizer.{lacking}")


def _arguments(
    settings: OptimizerSettings, folder: Path, device: torch.device, options: Mapping[str, Any]
) -> TrainingArguments:
    _ignore_launchers_precision("bf16" if options.get("bf16") else "no")
    # transformers renamed the option within 5.x and warns about the old name.
    fields = TrainingArguments.__dataclass_fields__
    recompute = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    return TrainingArguments(
        output_dir=str(folder / saved.CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES.get(settings.schedule, settings.schedule),
        warmup_steps=math.ceil(settings.steps * settings.warmup),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=None,  # transformers deletes the older ones before this one is marked as complete
        dataloader_drop_last=True,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=[],
        report_to=[],  # The trackers are added once their runs have been found again
        **(options["tracking"].arguments(folder) if "tracking" in options else {}),
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        bf16=options.get("bf16", False),
        **{recompute: options.get("gradient_checkpointing", False)},
        ddp_find_unused_parameters=options.get("find_unused", False),
    )


def _ignore_launchers_precision(wanted: str) -> None:
    """Remove the number format that ``accelerate launch`` exports, which would override that of the settings."""
    given = os.environ.pop(_LAUNCHERS_PRECISION, "no")
    if given not in ("no", wanted):
        logger.info("%s=%s in the environment is ignored; model.dtype chooses the format", _LAUNCHERS_PRECISION, given)


@torch.no_grad()
def _validate(model: Any, held_out: Sequence[Any], objective: _Objective, batch_size: int) -> dict[str, float]:
    """Let the objective look at the held-out examples, the model in evaluation mode."""
    if not held_out:
        return {}
    was_training = model.training
    model.eval()
    found = objective.validate(model, held_out, batch_size)
    model.train(was_training)
    return {f"validation_{name}": value for name, value in found.items()}


def mean_loss(objective: _Objective, model: Any, held_out: Sequence[Any], batch_size: int) -> dict[str, float]:
    """Return the mean loss and its parts over the held-out examples, as if they were one batch.

    Without counts, a part is a mean over the examples of those chunks that have it.
    """
    chunks = [held_out[start : start + batch_size] for start in range(0, len(held_out), batch_size)]
    sums, weights = dict[str, float](), dict[str, int]()
    for chunk, batch in zip(chunks, share_counts([objective.collate(chunk) for chunk in chunks]), strict=True):
        loss, parts = objective.loss(model, batch)
        weight = 1 if COUNTS in batch else len(chunk)
        for name, value in {"loss": loss.item(), **parts}.items():
            sums[name] = sums.get(name, 0.0) + value * weight
            weights[name] = weights.get(name, 0) + weight
    return {name: value / weights[name] for name, value in sums.items()}

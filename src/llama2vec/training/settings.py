"""Settings that both training stages share: the optimization, and where its curves are shown."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llama2vec.config import Settings, StableHashSettings
from llama2vec.terminal import counted

TRACKERS = ("tensorboard", "wandb", "trackio")


class OptimizerSettings(StableHashSettings):
    """Optimization of the weights (by transformers.Trainer).

    Attributes:
        steps: Optimizer steps. The default suits SmolLM2-135M (docs/lab-notes.md); the paper uses 10,000 for 7B.
        learning_rate: Peak of the schedule. The default suits small models under LoRA; use 1e-4 to 3e-4 for billions
            of parameters, 1e-5 for full fine-tuning.
        seed: Seed of new weights, order and dropout; in fine-tuning also of the drawn passages and, unless
            ``validation.seed`` is set, of the validation queries; in adaptation also of where texts are cut, held-out
            ones too.
        average_last: Save the mean of the weights at this many last checkpoints instead of the last weights (LAWA,
            arXiv 2209.14981). They are ``save_every`` steps apart, except that the last one follows sooner where
            ``save_every`` does not divide the steps. It helps where the learning rate has not fallen to 0.
        sharding: ``fsdp`` = each process of torchrun holds a share of weights, gradients and optimizer state (FSDP2).
    """

    added_later = frozenset({"average_last"})

    steps: Annotated[int, Field(ge=1)] = 32
    batch_size: Annotated[int, Field(ge=1)] = 16  # Examples per step and process
    accumulation: Annotated[int, Field(ge=1)] = 1  # Micro-batches summed into one step
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # How the learning rate falls after the warm-up
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05  # Share of the steps over which the rate rises from 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # AdamW's weight decay
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # Gradients are clipped to this norm
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    log_every: Annotated[int, Field(ge=1)] = 5  # Steps between log lines; checkpoints add lines of their own
    validate_every: Annotated[int, Field(ge=0)] = 50  # Steps between validation losses; 0 = only at the end
    save_every: Annotated[int, Field(ge=1)] = 50  # Steps between checkpoints
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2  # Number of checkpoints to keep; older ones are deleted
    average_last: Annotated[int, Field(ge=1)] = 1
    workers: Annotated[int, Field(ge=0, le=1024)] = 0  # Processes that prepare batches; 0 = the training process itself
    # Not written down: where the weights are kept decides no result, and a run may be resumed with more processes.
    sharding: Annotated[Literal["none", "fsdp"], Field(exclude=True)] = "none"
    offload: Annotated[bool, Field(exclude=True)] = False  # With ``fsdp``, keep the shares in the CPU's memory: slower

    @model_validator(mode="after")
    def _offload_shares_only(self) -> OptimizerSettings:
        if self.offload and self.sharding == "none":
            raise ValueError("offload moves the shares of sharding to the CPU; set sharding = 'fsdp'")
        return self

    @model_validator(mode="after")
    def _average_of_whole_weights(self) -> OptimizerSettings:
        if self.average_last > 1 and self.sharding != "none":
            raise ValueError("average_last needs whole weights on each device; set sharding to 'none', or it to 1")
        # Fine-tuning learns its steps from the examples where only epochs are set, and checks once it has read them.
        if self.steps and (lacking := self.lacking_checkpoints()):
            raise ValueError(lacking)
        return self

    def lacking_checkpoints(self) -> str:
        """Say why the steps do not leave the checkpoints that are to be averaged; "" where they do."""
        found = ceil(self.steps / self.save_every)
        if self.average_last <= max(found, 1):
            return ""
        made = f"makes only {counted(found, 'checkpoint')} in {counted(self.steps, 'step')}; lower one of them"
        return f"average_last is {self.average_last}, but save_every = {self.save_every} {made}"

    def averaged_steps(self) -> list[int]:
        """Return the steps at whose checkpoints the weights are averaged, the earliest first."""
        last = ceil(self.steps / self.save_every)
        return [min(number * self.save_every, self.steps) for number in range(last - self.average_last + 1, last + 1)]


class TrackingSettings(Settings):
    """Where the curves of a training are shown, besides its own log and picture; the result does not depend on it.

    Attributes:
        report_to: ``none``, ``tensorboard``, ``wandb``, ``trackio``, or several as a list. Each needs its package.
            TensorBoard's files are in the output folder; W&B writes to its server, or with ``WANDB_MODE=offline`` to
            the working folder; Trackio to its folder on this machine. A resumed training continues its run.
    """

    report_to: str | list[str] = "none"
    project: str = "llama2vec"  # Project of W&B and Trackio
    name: str = ""  # Name of the run; "" = the output folder's. A short random mark follows it

    @property
    def trackers(self) -> list[str]:
        """The trackers by name, each once."""
        given = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in dict.fromkeys(given) if name != "none"]

    @model_validator(mode="after")
    def _known(self) -> TrackingSettings:
        unknown = [name for name in self.trackers if name not in TRACKERS]
        if unknown:
            raise ValueError(f"report_to: unknown tracker {unknown[0]!r}; choose from {', '.join(TRACKERS)}, none")
        return self

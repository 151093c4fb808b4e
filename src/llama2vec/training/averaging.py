"""The mean of the weights at the last checkpoints of a training (latest weight averaging, LAWA, arXiv 2209.14981)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llama2vec.terminal import counted
from llama2vec.training.state import step_of, whole_checkpoints

logger = logging.getLogger(__name__)


def average_last_checkpoints(model: torch.nn.Module, load: Callable[[Path], None], folder: Path, count: int) -> None:
    """Give the trained weights of a model their mean over the newest whole checkpoints, and name the steps of these.

    Under LoRA the mean is that of A and of B. The sums are float32, in the order of the steps.

    Args:
        model: Its weights that need a gradient are replaced; the others stay.
        load: Loads a checkpoint into the model.
        folder: The training's.
        count: Checkpoints to average; fewer if there are fewer, which is said.

    Raises:
        TrainingError: A checkpoint is damaged.
    """
    found = whole_checkpoints(folder)[-count:]
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    sums: dict[str, Tensor] = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in trained.items()}
    for checkpoint in found:
        load(checkpoint)
        for name, weight in trained.items():
            sums[name] += weight.detach().float()
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(sums[name] / len(found))
    steps = [step_of(checkpoint) for checkpoint in found]
    if len(found) < count:
        logger.warning(
            "optimizer.average_last is %d, but there are only %s; lower optimizer.save_every for more",
            count, counted(len(found), "checkpoint"),
        )  # fmt: skip
    logger.info("the weights are the mean of those at steps %s", ", ".join(map(str, steps)))

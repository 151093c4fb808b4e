"""The mean of the weights at the last checkpoints of a training (latest weight averaging, LAWA, arXiv 2209.14981)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.state import check_weights, checkpoint_at, step_of

logger = logging.getLogger(__name__)


def checkpoints_to_average(folder: Path, settings: OptimizerSettings, step: int) -> list[Path]:
    """Return those checkpoints to average that a training has written up to a step, the oldest first.

    Raises:
        TrainingError: The weights of one are missing or have changed.
    """
    found = [checkpoint_at(folder, one) for one in settings.averaged_steps() if one <= step]
    for checkpoint in found:
        check_weights(checkpoint)
    return found


def average_checkpoints(model: torch.nn.Module, load: Callable[[Path], None], checkpoints: Sequence[Path]) -> None:
    """Give the trained weights of a model their mean over checkpoints, and name the steps of these.

    Under LoRA the mean is that of A and of B. The sums are float32, in the order of the steps.

    Args:
        model: Its weights that need a gradient are replaced; the others stay.
        load: Loads a checkpoint into the model.
        checkpoints: Those to average, at least one.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    sums: dict[str, Tensor] = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in trained.items()}
    for checkpoint in checkpoints:
        load(checkpoint)
        for name, weight in trained.items():
            sums[name] += weight.detach().float()
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(sums[name] / len(checkpoints))
    steps = ", ".join(str(step_of(checkpoint)) for checkpoint in checkpoints)
    logger.info("the weights are the mean of those at steps %s", steps)

"""A training of a straight line, which takes no time; for tests of the training loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from llama2vec.training import loop
from llama2vec.training.orders import LengthGroupedOrder
from llama2vec.training.settings import OptimizerSettings


class Line(torch.nn.Module):
    """y = w x + b; small enough to train in no time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(1, 1)

    @property
    def device(self) -> torch.device:
        return self.linear.weight.device


class FitLine:
    """Learn y = 3 x; at ``bad_step`` the loss becomes NaN."""

    def __init__(self, bad_call: int = 0) -> None:
        self.calls, self.bad_call = 0, bad_call

    def order(self, examples: Sequence[float], settings: OptimizerSettings) -> LengthGroupedOrder:
        lengths = [int(abs(example) * 10) for example in examples]
        return LengthGroupedOrder(lengths, settings.batch_size, settings.seed)

    def collate(self, examples: Sequence[float]) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(examples)[:, None]}

    def loss(self, model: Line, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        self.calls += 1
        loss = (model.linear(batch["x"]) - 3 * batch["x"]).square().mean()
        if self.calls == self.bad_call:
            loss = loss * float("nan")
        return loss, {"loss_line": loss.item()}

    def validate(self, model: Line, held_out: Sequence[float], batch_size: int) -> dict[str, float]:
        return loop.mean_loss(self, model, held_out, batch_size)


EXAMPLES = [random.Random(0).uniform(-1, 1) * (number % 7) for number in range(23)]


def settings(**changes: Any) -> OptimizerSettings:
    values = {"steps": 8, "batch_size": 4, "learning_rate": 0.05, "log_every": 2, "save_every": 4, "validate_every": 4}
    return OptimizerSettings(**{**values, **changes})

"""A batch read in pieces: which rows share a pass, and the gradients of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MOST_CELLS = {"cpu": 2048}


def most_cells(wanted: int, device: str) -> int:
    """Return the most cells of a pass: the requested number, else a default for the kind of device; 0 = no limit."""
    return wanted or _MOST_CELLS.get(device, 0)


def micro_batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Divide rows of given lengths among as few passes of at most ``most`` cells (rows x longest row) as possible.

    A pass holds rows of similar length, the longest first; a batch that fits in one pass keeps its order. 0 = no limit.

    >>> micro_batches([3, 9, 4, 8], most=18), micro_batches([3, 9, 4, 8], most=36)
    ([[1, 3], [2, 0]], [[0, 1, 2, 3]])
    """
    rows = list(range(len(lengths)))
    widest = max(lengths, default=1) or 1
    passes = -(-len(rows) // max(1, most // widest)) if most else 1
    if passes <= 1:
        return [rows]
    rows.sort(key=lambda row: -lengths[row])
    size = -(-len(rows) // passes)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class PiecewiseGradients:
    """Runs the backward pass of each part of a sum, for a training loop that expects one loss and one ``backward``."""

    def __init__(self, model: Any) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._before = [weight.grad for weight in self._weights]
        for weight in self._weights:
            weight.grad = None

    def add(self, loss: Tensor) -> Tensor:
        """Run the backward pass of one part of the sum, free its activations, and return its value."""
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def scaled_by_backward(self, total: Tensor) -> Tensor:
        """Return the sum; its ``backward``, called once, scales the collected gradients by the incoming gradient."""
        total = total.clone().requires_grad_()
        total.register_hook(self._scale)  # type: ignore[no-untyped-call]
        return total

    def _scale(self, upstream: Tensor) -> None:
        factor = float(upstream)
        for weight, before in zip(self._weights, self._before, strict=True):
            if weight.grad is None:
                weight.grad = before
                continue
            if factor != 1:
                weight.grad.mul_(factor)
            if before is not None:
                weight.grad.add_(before)

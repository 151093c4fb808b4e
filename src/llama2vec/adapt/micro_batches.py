"""Micro-batches: which rows of a batch to read together, and how their gradients add up to those of the whole batch.

A batch read in one pass holds the activations of all its rows. The pretext losses are means over rows (or tokens), so
the batch can be read in pieces with a backward pass each: the same gradients up to rounding, in the memory of one
piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MOST_CELLS = {"cpu": 2048}


def most_cells(wanted: int, device: str) -> int:
    """Return the most cells of a pass: the requested number, else a default for the kind of device; 0 = no limit.

    >>> most_cells(0, "cpu"), most_cells(0, "cuda"), most_cells(500, "cpu")
    (2048, 0, 500)
    """
    return wanted or _MOST_CELLS.get(device, 0)


def micro_batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Divide a batch among as few passes as its cells allow, with similar lengths together and passes of similar size.

    Args:
        lengths: Number of columns of each row.
        most: Most cells (rows x longest row) of a pass; a single row may exceed it. 0 = no limit.

    Returns:
        The rows of each pass, the longest first; a batch that fits in one pass keeps its order.

    >>> micro_batches([3, 9, 4, 8], most=18)
    [[1, 3], [2, 0]]
    >>> micro_batches([3, 9, 4, 8], most=36)
    [[0, 1, 2, 3]]
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
    """Runs the backward pass of each part of a sum, for a training loop that expects one loss and one ``backward``.

    Args:
        model: Its weights collect the gradients, added to those that they already hold.
    """

    def __init__(self, model: Any) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._before = [weight.grad for weight in self._weights]
        self._total: Tensor | None = None
        for weight in self._weights:
            weight.grad = None

    def add(self, loss: Tensor) -> None:
        """Run the backward pass of one part of the sum and free its activations."""
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        value = loss.detach()
        self._total = value if self._total is None else self._total + value

    def total(self) -> Tensor:
        """Return the sum; its ``backward``, called once, scales the collected gradients by the incoming gradient.

        Raises:
            ValueError: Nothing was added.
        """
        if self._total is None:
            raise ValueError("a sum of no parts has no gradient")
        total = self._total.clone().requires_grad_()
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

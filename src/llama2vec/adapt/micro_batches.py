"""Micro-batches of one batch: which rows are read together, and how their gradients add up to those of the whole.

A batch read in one pass holds the activations of all its rows. The pretext losses are means over rows (or tokens), so
it can be read in pieces, each taken back to the weights at once: the same gradients up to rounding, in the memory of
one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MOST_CELLS = {"cpu": 2048}


def most_cells(wanted: int, device: str) -> int:
    """Return the most cells of a pass: what is wanted, else what suits a kind of device; 0 = no limit.

    >>> most_cells(0, "cpu"), most_cells(0, "cuda"), most_cells(500, "cpu")
    (2048, 0, 500)
    """
    return wanted or _MOST_CELLS.get(device, 0)


def micro_batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Divide the rows of a batch among as few passes as their cells allow: like lengths together, passes of like size.

    Args:
        lengths: Columns that each row needs.
        most: Most cells (rows x longest row) of a pass; a single row may have more. 0 = no limit.

    Returns:
        The rows of each pass, the longest first; a batch that fits stays in its order.

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
    """Takes the parts of a sum back to the weights one by one, for a loop that knows one loss and one ``backward``.

    Args:
        model: Its weights collect the gradients; what they have collected before is kept and added.
    """

    def __init__(self, model: Any) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._before = [weight.grad for weight in self._weights]
        self._total: Tensor | None = None
        for weight in self._weights:
            weight.grad = None

    def add(self, loss: Tensor) -> None:
        """Take one part of the sum back to the weights and let go of its activations."""
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        value = loss.detach()
        self._total = value if self._total is None else self._total + value

    def total(self) -> Tensor:
        """Return the sum; its ``backward``, to be called once, multiplies the gradients by what comes from above.

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

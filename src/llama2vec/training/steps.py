"""Parts of a loss that are means over a whole step, however it is cut into batches, accumulation and processes.

A batch says under :data:`COUNTS` what each part of its loss is a mean over, such as its texts that have something to
predict. A step averages the losses of its batches, over accumulation and processes. So each batch divides its sums by
the mean count of the step's batches, and that average is the mean over everything in the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llama2vec.processes import process_count, sum_everywhere

COUNTS = "counts"
"""The key of a batch's counts by part of the loss; a batch without it has a loss that is a mean over its rows."""


def share_counts(batches: Sequence[Mapping[str, Any]], device: torch.device | None = None) -> list[Mapping[str, Any]]:
    """Return the batches of a step, each with the mean counts of all batches of the step.

    Args:
        batches: The batches of this process.
        device: Where the counts of all processes are added up; None = the step has the batches of this process alone.

    >>> share_counts([{"counts": {"loss_next": 1}}, {"counts": {"loss_next": 4}}])
    [{'counts': {'loss_next': 2.5}}, {'counts': {'loss_next': 2.5}}]
    """
    if not batches or COUNTS not in batches[0]:
        return [*batches]
    names = [*batches[0][COUNTS]]
    counts = torch.tensor([[batch[COUNTS][name] for name in names] for batch in batches]).sum(dim=0)
    total = len(batches)
    if device is not None and process_count() > 1:
        counts = sum_everywhere(counts.to(device))
        total *= process_count()
    means = {name: count / total for name, count in zip(names, counts.tolist(), strict=True)}
    return [{**batch, COUNTS: means} for batch in batches]

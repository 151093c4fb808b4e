"""Several processes that train one model (torchrun): ranks, checks, gathered rows and averaged gradients.

Every function also works in a single process, where there is nothing to exchange.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from llama2vec.errors import TrainingError

ResultT = TypeVar("ResultT")

_BUCKET_NUMBERS = 1 << 25


def connect(device: torch.device) -> None:
    """Join the other processes that torchrun started; the same state serves transformers later."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def process_count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Return this process' number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait_for_all() -> None:
    """Return when every process has come this far."""
    if process_count() > 1:
        dist.barrier()


def on_first_process(work: Callable[[], ResultT]) -> ResultT:
    """Do something once, on the first process; all get its result, or its error."""
    if process_count() == 1:
        return work()
    found: list[Any] = [None, None]
    if process_rank() == 0:
        try:
            found[0] = work()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]  # type: ignore[no-any-return]


def check_same(digest: str, what: str) -> None:
    """Make sure that all processes were started with the same.

    Raises:
        TrainingError: On every process; names those that differ from the first.
    """
    if process_count() == 1:
        return
    digests: list[Any] = [None] * process_count()
    dist.all_gather_object(digests, digest)
    others = [str(rank) for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise TrainingError(
            f"process {', '.join(others)} of {process_count()} was started with other {what} than process 0; "
            "give every process the same recipe and the same files"
        )


def gather_rows(rows: Tensor) -> list[Tensor]:
    """Exchange tensors that differ in their number of rows only; no gradient flows back.

    Args:
        rows: [N, …] of this process; N may differ between processes.

    Returns:
        One tensor for each process, this process' own included.
    """
    if process_count() == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(process_count())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return [part[:size] for part, size in zip(found, sizes, strict=True)]


def sum_everywhere(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place."""
    if process_count() > 1:
        dist.all_reduce(tensor)
    return tensor


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes, in buckets of a bounded size."""
    if process_count() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if bucket and (
            bucket[0].dtype != parameter.grad.dtype
            or sum(gradient.numel() for gradient in bucket) + parameter.grad.numel() > _BUCKET_NUMBERS
        ):
            _average(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        _average(bucket)


def _average(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= process_count()
    for gradient, part in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))

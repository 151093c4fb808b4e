"""Several processes that train one model (torchrun): ranks, checks, gathered rows and averaged gradients.

Every function also works in a single process, where there is nothing to exchange; that is known without torch, whose
import takes seconds.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from llama2vec.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ResultT = TypeVar("ResultT")

_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(hours=6)
"""How long processes wait for each other: as long as the first one may read a large corpus. torchrun sees lost ones."""


def connect(device: torch.device, *, alone_too: bool = False) -> None:
    """Join the other processes that torchrun started; the same state serves transformers later.

    ``alone_too``: a process that nothing started becomes a group of one, which sharding needs.

    Raises:
        ConfigError: The environment names several processes, and not how they find each other.
    """
    alone = launched_processes() == 1
    if _group() or (alone and not alone_too):
        return
    lacking = [name for name in _OF_TORCHRUN if not os.environ.get(name)]
    if lacking and not alone:
        raise ConfigError(
            f"WORLD_SIZE is {launched_processes()}, and {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} "
            "not set, by which the processes find each other; start them with torchrun, or unset WORLD_SIZE"
        )
    from accelerate import PartialState

    if alone:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        for name, value in {**here, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            os.environ[name] = os.environ.get(name) or value
    # Weights and moments that are kept in the CPU's memory need gloo beside NCCL.
    more: dict[str, Any] = {"backend": "cpu:gloo,cuda:nccl"} if device.type == "cuda" else {}
    PartialState(cpu=device.type == "cpu", timeout=_PATIENCE, **more)


def launched_processes() -> int:
    """Return how many processes torchrun has started, connected or not; 1 without it.

    Raises:
        ConfigError: The environment variable WORLD_SIZE does not count processes.
    """
    given = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(
            f"WORLD_SIZE is {given!r}, which does not count processes; start them with torchrun, or unset it"
        )
    return int(given)


def process_count() -> int:
    """Return how many processes train together."""
    group = _group()
    return int(group.get_world_size()) if group else 1


def process_rank() -> int:
    """Return the number of this process, from 0."""
    group = _group()
    return int(group.get_rank()) if group else 0


def _group() -> Any:
    """Return torch.distributed if this process has joined others, else None."""
    if sys.modules.get("torch") is None:  # Nothing has been joined without it
        return None
    import torch.distributed as dist

    return dist if dist.is_initialized() else None


def wait_for_all() -> None:
    """Return when every process has come this far."""
    if process_count() > 1:
        _group().barrier()


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
    _group().broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]  # type: ignore[no-any-return]


def check_same(digest: str, what: str) -> None:
    """Raise a TrainingError on every process, naming those that were started with another ``what`` than the first."""
    digests = from_all(digest)
    others = [str(rank) for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise TrainingError(
            f"process {', '.join(others)} of {process_count()} was started with other {what} than process 0; "
            "give every process the same recipe, the same files and the same packages"
        )


def gather_rows(rows: Tensor) -> list[Tensor]:
    """Return the rows [N, …] of every process by rank; N may differ, and no gradient flows back."""
    if process_count() == 1:
        return [rows]
    import torch
    import torch.distributed as dist

    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(process_count())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return [part[:size] for part, size in zip(found, sizes, strict=True)]


def largest_everywhere(number: int, device: torch.device) -> int:
    """Return the largest of the numbers of all processes."""
    if process_count() == 1:
        return number
    import torch
    import torch.distributed as dist

    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def from_all(value: ResultT) -> list[ResultT]:
    """Return what each process gave, by rank."""
    found: list[Any] = [value] * process_count()
    if process_count() > 1:
        _group().all_gather_object(found, value)
    return found


def first_fault(fault: str) -> str:
    """Return what is wrong on the first process that found something, on every process; "" = nothing anywhere."""
    return next(filter(None, from_all(fault)), "")


def sum_everywhere(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place."""
    if process_count() > 1:
        _group().all_reduce(tensor)
    return tensor


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over all processes; the exchanges overlap."""
    group, count = _group(), process_count()
    if count == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for exchange in [group.all_reduce(gradient, async_op=True) for gradient in gradients]:
        exchange.wait()
    for gradient in gradients:
        gradient /= count

"""Memory that was freed goes back to the system, where the C library would keep it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch


def return_freed_memory(device: torch.device) -> None:
    """Give the system what tensors on the CPU no longer use, so that tensors of other sizes do not come on top.

    glibc keeps freed blocks for the next request of their size; blocks of many sizes leave holes that none fills. Other
    systems and devices look after theirs: there this does nothing.
    """
    if device.type == "cpu" and (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None

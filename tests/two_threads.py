"""Two threads that use one object at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import numpy as np


def assert_threads_agree(*works: Callable[[], Any], times: int = 150) -> None:
    """Call each work in a thread of its own, again and again, and compare every result with the one alone."""
    expected, barrier = [work() for work in works], Barrier(len(works))

    def repeated(work: Callable[[], Any], alone: Any) -> None:
        barrier.wait()
        for _ in range(times):
            np.testing.assert_allclose(work(), alone, atol=1e-5, rtol=0)

    with _frequent_switches(), ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(repeated, *one) for one in zip(works, expected, strict=True)]:
            done.result()


@contextmanager
def _frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)

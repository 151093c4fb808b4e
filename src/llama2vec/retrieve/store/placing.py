"""Where the shards of a store are encoded: one after the other here, or several at a time by an encoder elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from llama2vec.retrieve.store.reader import PassageEncoder
from llama2vec.retrieve.store.reuse import KnownVectors

Take = Callable[[Callable[[], None]], None]
"""Does a shard's work, now or in a thread."""


@runtime_checkable
class ParallelEncoder(Protocol):
    """An encoder that computes elsewhere; calls from so many threads at a time keep it busy."""

    shards_at_once: int

    def stop(self) -> None:
        """End all calls, with an error where each was made."""


@contextmanager
def shard_turns(encoder: PassageEncoder | None) -> Iterator[Take]:
    """Give a function that does a shard's work; the block ends when all work is done.

    With a :class:`ParallelEncoder` the function returns as soon as there is room for the next shard. The first work
    that fails raises its error there, or at the end of the block, and stops the others.
    """
    elsewhere = encoder.encoder if isinstance(encoder, KnownVectors) else encoder
    if not isinstance(elsewhere, ParallelEncoder):
        yield lambda work: work()
        return
    most, running = elsewhere.shards_at_once, set[Future[None]]()

    def settle(left: int) -> None:
        while len(running) > left:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            running.difference_update(done)
            for one in done:
                one.result()

    def take(work: Callable[[], None]) -> None:
        settle(most - 1)
        running.add(pool.submit(work))

    with ThreadPoolExecutor(most) as pool:
        try:
            yield take
            settle(0)
        except BaseException:
            elsewhere.stop()
            raise

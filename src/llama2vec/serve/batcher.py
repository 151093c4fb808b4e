"""Requests that come at the same time share the model's passes: one queue, one thread that runs the encoder."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Side = Literal["query", "passage"]
Lane = Side | Literal["words"]
"""What the model makes of a text: the vector of a query, that of a passage, or the words of a query."""
LANES: tuple[Lane, ...] = ("query", "passage", "words")
Vectors = npt.NDArray[np.float32]

_LONGEST_RETRY_SECONDS = 30


class TextEncoder(Protocol):
    """What the batcher needs of a model."""

    def count_tokens(self, texts: Sequence[str], lane: Lane) -> list[int]:
        """Return how many tokens the model reads of each text, prompts included; called from one thread."""
        ...

    def encode(self, texts: Sequence[str], lane: Lane) -> Sequence[Any]:
        """Return one row for each text: its unit vector [D], or its words as [1, W]; called from one other thread."""
        ...


class QueueFullError(Exception):
    """Too many texts wait already.

    Attributes:
        retry_seconds: When there should be room again.
    """

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(f"too many texts wait; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one request gets.

    Attributes:
        rows: What the encoder returned for each of its texts, in their order.
        tokens: How many tokens the model read for it, prompts included.
    """

    rows: list[Any]
    tokens: int

    @property
    def vectors(self) -> Vectors:
        """[N, D] float32."""
        return np.stack(self.rows)


@dataclass(slots=True, eq=False)
class _Request:
    """Texts of one caller; parts of it may be in several batches."""

    texts: Sequence[str]
    tokens: Sequence[int]
    done: asyncio.Future[list[Any]]
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    rows: list[Any] = field(default_factory=list)
    missing: int = 0

    def __post_init__(self) -> None:
        self.rows = [None] * len(self.texts)
        self.missing = len(self.texts)

    def put(self, place: int, row: Any) -> None:
        self.rows[place] = row
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(self.rows)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model read in one call."""

    lane: Lane
    texts: int
    tokens: int
    seconds: float


class Batcher:
    """Gather the texts of concurrent requests into batches for one encoder.

    Queries and passages have prompts and lengths of their own, so they never share a batch; where several lanes
    wait, they take turns. Within a lane the requests are asked in turn for one text each, so that a request with one
    text does not wait behind another's hundreds. While the model is busy texts gather by themselves; an idle one waits
    ``max_wait_seconds`` for company. A caller that is cancelled takes its texts along, if they are not in work yet.

    Make it and use it within one event loop.

    Args:
        encoder: Counts tokens and encodes, each on a thread of its own.
        max_batch: Most texts of a batch.
        max_batch_tokens: Most tokens of a batch; a longer single text is a batch of its own.
        max_wait_seconds: See above.
        max_waiting: Most texts admitted and not finished.
        on_batch: Told of every finished batch.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        max_batch: int,
        max_batch_tokens: int,
        max_wait_seconds: float,
        max_waiting: int,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._encoder = encoder
        self._max_batch, self._max_batch_tokens = max_batch, max_batch_tokens
        self._max_wait_seconds, self._max_waiting = max_wait_seconds, max_waiting
        self._on_batch = on_batch
        self._pending: dict[Lane, deque[_Request]] = {lane: deque() for lane in LANES}
        self._arrived = asyncio.Event()
        self._seconds_per_text = 0.0
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="count-tokens")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._loop_task = asyncio.create_task(self._run())
        self.waiting = 0
        """Texts admitted and not finished."""

    async def encode(self, texts: Sequence[str], lane: Lane) -> Encoded:
        """Embed texts together with those of other callers.

        Raises:
            QueueFullError: Too many texts wait; nothing was queued.
        """
        if self.waiting + len(texts) > self._max_waiting:
            raise QueueFullError(self._retry_seconds())
        loop = asyncio.get_running_loop()
        self.waiting += len(texts)
        try:
            tokens = await loop.run_in_executor(self._counter, self._encoder.count_tokens, texts, lane)
            request = _Request(texts, tokens, loop.create_future())
            self._pending[lane].append(request)
            self._arrived.set()
            try:
                return Encoded(await request.done, sum(tokens))
            finally:
                # Here too when the caller gave up: what was not taken yet is never computed.
                with suppress(ValueError):
                    self._pending[lane].remove(request)
        finally:
            self.waiting -= len(texts)

    async def close(self) -> None:
        """Stop the threads; who still waits gets a ``CancelledError``."""
        self._loop_task.cancel()
        with suppress(asyncio.CancelledError):
            await self._loop_task
        for requests in self._pending.values():
            for request in requests:
                request.done.cancel()
        self._counter.shutdown(wait=False, cancel_futures=True)
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            while not any(self._pending.values()):
                self._arrived.clear()
                await self._arrived.wait()
            await self._wait_for_company()
            lane = self._next_lane()
            if lane is not None:  # else all of them gave up in the meantime
                await self._encode_batch(lane, self._take(lane))

    async def _wait_for_company(self) -> None:
        """Wait until the oldest text has waited long enough, or a batch is full."""
        while True:
            requests = [request for pending in self._pending.values() for request in pending]
            texts = sum(len(request.texts) - request.taken for request in requests)
            oldest = min((request.arrived for request in requests), default=0.0)
            left = oldest + self._max_wait_seconds - time.monotonic()
            if left <= 0 or texts >= self._max_batch:
                return
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _next_lane(self) -> Lane | None:
        """Return the lane whose turn it is, and put it behind the others."""
        for lane in self._pending:
            if self._pending[lane]:
                self._pending[lane] = self._pending.pop(lane)
                return lane
        return None

    def _take(self, lane: Lane) -> list[tuple[_Request, int]]:
        """Take one text of each request in turn until the batch is full."""
        pending, batch, tokens = self._pending[lane], list[tuple[_Request, int]](), 0
        while pending and len(batch) < self._max_batch:
            request = pending[0]
            tokens += request.tokens[request.taken]
            if batch and tokens > self._max_batch_tokens:
                break
            batch.append((request, request.taken))
            request.taken += 1
            pending.popleft()
            if request.taken < len(request.texts):
                pending.append(request)
        return batch

    async def _encode_batch(self, lane: Lane, batch: list[tuple[_Request, int]]) -> None:
        texts = [request.texts[place] for request, place in batch]
        started = time.monotonic()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._worker, self._encoder.encode, texts, lane)
        except Exception as error:  # whatever it was, its callers must hear of it and the queue go on
            for request in {request for request, _ in batch}:
                with suppress(ValueError):
                    self._pending[lane].remove(request)
                if not request.done.done():
                    request.done.set_exception(error)
            return
        seconds = time.monotonic() - started
        self._seconds_per_text = seconds / len(batch)
        for (request, place), row in zip(batch, rows, strict=True):
            request.put(place, row)
        self._on_batch(Batch(lane, len(batch), sum(request.tokens[place] for request, place in batch), seconds))

    def _retry_seconds(self) -> int:
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(self.waiting * self._seconds_per_text)))

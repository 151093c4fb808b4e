"""Requests that arrive together share model passes: one queue, one thread that runs the encoder."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from llama2vec.errors import NotFiniteError
from llama2vec.records import SIDES, Side, Vectors
from llama2vec.terminal import counted

ResultT = TypeVar("ResultT")

_LONGEST_RETRY_SECONDS = 30
_FAILURES_IN_A_ROW = 3
_MOST_CALLS = 4


class Lengths(NamedTuple):
    """The lengths of some texts."""

    tokens: Sequence[int]  # What the model reads of each, prompts included
    cut: int = 0  # How many are longer than that


class TextEncoder(Protocol):
    """What the batcher needs of a model; each method is called from one thread of its own."""

    def count_tokens(self, texts: Sequence[str], side: Side) -> Lengths:
        """Return how many tokens the model reads of each text, and how many texts are longer."""
        ...

    def encode(self, texts: Sequence[str], side: Side) -> Vectors:
        """Return [N, D] unit vectors of N texts."""
        ...


class QueueFullError(Exception):
    """Too many texts wait already; there should be room again after ``retry_seconds``."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(f"too many texts are waiting; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


class EncodingError(Exception):
    """The model failed on a batch; the cause is chained."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The answer to one request."""

    vectors: Vectors  # [N, D] float32, in the order of its texts
    tokens: int  # How many tokens the model read for it, prompts included
    cut: int = 0  # How many of its texts the model read only the beginning of


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model read in one call."""

    side: Side
    texts: int
    tokens: int
    seconds: float


@dataclass(slots=True, eq=False)
class _Request:
    """Texts of one caller; they may be spread over several batches."""

    texts: Sequence[str]
    tokens: Sequence[int]
    done: asyncio.Future[list[Vectors]]
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    rows: dict[int, Vectors] = field(default_factory=dict)

    def put(self, place: int, row: Vectors) -> None:
        self.rows[place] = row
        if len(self.rows) == len(self.texts) and not self.done.done():
            self.done.set_result([self.rows[number] for number in range(len(self.texts))])


class Batcher:
    """Gather the texts of concurrent requests into batches for one encoder, within one event loop.

    Queries and passages have different prompts and lengths, so they never share a batch and take turns. Within a side
    each request contributes one text in turn, so a single question does not wait for somebody's hundreds of passages.
    Texts of a cancelled caller leave the queue.

    Args:
        encoder: Counts tokens and encodes, each on a thread of its own.
        max_batch: Most texts of a batch.
        max_batch_tokens: Most tokens of a batch; a longer text makes a batch of its own.
        max_wait_seconds: How long an idle model waits for more texts; while it is busy they gather anyway.
        max_waiting: Most texts admitted and not finished.
        on_batch: Called after every batch.
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
        self._pending: dict[Side, deque[_Request]] = {side: deque() for side in SIDES}
        self._arrived = asyncio.Event()
        self._seconds_per_text = 0.0
        self._failures = 0
        self._calls = 0
        self._busy_since: float | None = None
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="count-tokens")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._loop_task = asyncio.create_task(self._run())
        self.waiting = 0
        """Texts admitted and not finished."""

    def is_failing(self, longest_seconds: float) -> bool:
        """Return whether the last batches all failed, or the current one takes longer than a batch may."""
        busy = 0.0 if self._busy_since is None else time.monotonic() - self._busy_since
        return self._failures >= _FAILURES_IN_A_ROW or busy > longest_seconds or self._loop_task.done()

    async def encode(self, texts: Sequence[str], side: Side) -> Encoded:
        """Embed texts with those of other callers, or raise QueueFullError, NotFiniteError or EncodingError."""
        if self.waiting + len(texts) > self._max_waiting:
            raise QueueFullError(self._retry_seconds())
        loop = asyncio.get_running_loop()
        self.waiting += len(texts)
        try:
            lengths = await _call(self._counter, self._encoder.count_tokens, texts, side)
            request = _Request(texts, lengths.tokens, loop.create_future())
            self._pending[side].append(request)
            self._arrived.set()
            try:
                return Encoded(np.stack(await request.done), sum(lengths.tokens), lengths.cut)
            finally:
                # Also when the caller gave up: texts that are not in a batch yet are never encoded.
                with suppress(ValueError):
                    self._pending[side].remove(request)
        finally:
            self.waiting -= len(texts)

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function in the encoder's thread, between two batches; QueueFullError where several wait already."""
        if self._calls >= _MOST_CALLS:
            raise QueueFullError(1)
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, function)
        finally:
            self._calls -= 1

    async def close(self) -> None:
        """Stop the threads; callers that still wait get a ``CancelledError``."""
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
            side = self._next_side()
            if side is None:  # all callers gave up in the meantime
                continue
            await self._answer(side, self._take(side))

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

    def _next_side(self) -> Side | None:
        """Return the side whose turn it is, and move it to the end."""
        for side in self._pending:
            if self._pending[side]:
                self._pending[side] = self._pending.pop(side)
                return side
        return None

    def _take(self, side: Side) -> list[tuple[_Request, int]]:
        """Take one text of each request in turn until the batch is full."""
        pending, batch, tokens = self._pending[side], list[tuple[_Request, int]](), 0
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

    async def _answer(self, side: Side, batch: list[tuple[_Request, int]]) -> None:
        """Encode a batch; where it fails its callers hear of it, and the queue continues."""
        try:
            await self._encode_batch(side, batch)
        except NotFiniteError as error:
            # One text may overflow; that says nothing of the model, nor of the texts of others.
            requests = list(dict.fromkeys(request for request, _ in batch))
            if len(requests) == 1:
                self._fail(side, batch, error)
                return
            some = set(requests[: len(requests) // 2])
            await self._answer(side, [text for text in batch if text[0] in some])
            await self._answer(side, [text for text in batch if text[0] not in some])
        except Exception as error:
            self._failures += 1
            self._fail(side, batch, error)
        else:
            self._failures = 0
        finally:
            self._busy_since = None

    async def _encode_batch(self, side: Side, batch: list[tuple[_Request, int]]) -> None:
        texts = [request.texts[place] for request, place in batch]
        self._busy_since = started = time.monotonic()
        rows = await _call(self._worker, self._encoder.encode, texts, side)
        if len(rows) != len(texts):
            raise EncodingError(f"the model gave {counted(len(rows), 'vector')} for {counted(len(texts), 'text')}")
        seconds = time.monotonic() - started
        self._seconds_per_text = seconds / len(batch)
        for (request, place), row in zip(batch, rows, strict=True):
            request.put(place, row)
        self._on_batch(Batch(side, len(batch), sum(request.tokens[place] for request, place in batch), seconds))

    def _fail(self, side: Side, batch: list[tuple[_Request, int]], cause: BaseException) -> None:
        for request in {request for request, _ in batch}:
            with suppress(ValueError):
                self._pending[side].remove(request)
            if not request.done.done():
                error = cause
                if not isinstance(cause, NotFiniteError):
                    error = EncodingError(str(cause))
                    error.__cause__ = cause
                request.done.set_exception(error)

    def _retry_seconds(self) -> int:
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(self.waiting * self._seconds_per_text)))


async def _call(
    executor: ThreadPoolExecutor, function: Callable[[Sequence[str], Side], ResultT], texts: Sequence[str], side: Side
) -> ResultT:
    """Call the model in a thread; anything that it raises but a NotFiniteError becomes an :class:`EncodingError`.

    A panic in a Rust library is not an ``Exception``, and a ``CancelledError`` of the model's is not ours.
    """

    def caught() -> tuple[ResultT | None, BaseException | None]:
        try:
            return function(texts, side), None
        except BaseException as error:
            return None, error

    result, error = await asyncio.get_running_loop().run_in_executor(executor, caught)
    if isinstance(error, NotFiniteError):
        raise error
    if error is not None:
        raise EncodingError("the model failed") from error
    return result  # type: ignore[return-value]

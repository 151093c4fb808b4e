"""One queue for everybody: merged, fair, bounded, and without the texts of those who left."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from service_stand_ins import StandInEncoder, vector_of

from llama2vec.errors import NotFiniteError
from llama2vec.serve.batcher import Batch, Batcher, Encoded, EncodingError, Lengths, QueueFullError


def run(encoder: StandInEncoder, work: Callable[[Batcher], Coroutine[Any, Any, None]], **settings: Any) -> list[Batch]:
    """Run work with a batcher in a loop of its own; return the batches."""
    batches: list[Batch] = []

    async def main() -> None:
        usual = {"max_batch": 64, "max_batch_tokens": 1000, "max_wait_seconds": 0.02, "max_waiting": 1000}
        batcher = Batcher(encoder, **{**usual, **settings}, on_batch=batches.append)
        try:
            await asyncio.wait_for(work(batcher), 20)
        finally:
            encoder.gate.set()
            await batcher.close()

    asyncio.run(main())
    return batches


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


async def waiting(batcher: Batcher, texts: int) -> None:
    while batcher.waiting != texts:
        await asyncio.sleep(0.001)
    # Counting their tokens takes a thread's turn; then they stand in the queue.
    await asyncio.sleep(0.02)


def busy(encoder: StandInEncoder, batcher: Batcher) -> Awaitable[Any]:
    """Keep the model busy with one text until the gate opens."""
    encoder.gate.clear()
    return asyncio.ensure_future(batcher.encode(["busy"], "query"))


def test_concurrent_requests_share_a_batch_and_each_gets_its_own_vectors_in_order() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        requests = [[f"text {n}", f"more of {n}"] for n in range(5)]
        found = await asyncio.gather(*(batcher.encode(texts, "passage") for texts in requests))
        for texts, encoded in zip(requests, found, strict=True):
            np.testing.assert_array_equal(encoded.vectors, [vector_of(text, "passage") for text in texts])
            assert encoded.tokens == 4 + 5

    batches = run(encoder, work, max_wait_seconds=0.2, max_batch=10)
    assert [(batch.side, batch.texts, batch.tokens) for batch in batches] == [("passage", 10, 45)]
    assert len(encoder.calls) == 1


def test_queries_and_passages_never_share_a_batch_and_take_turns() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        first = busy(encoder, batcher)
        await until(encoder.working)
        rest = [batcher.encode([f"{side} {n}" for n in range(4)], side) for side in ("query", "passage")]
        tasks = [asyncio.ensure_future(request) for request in rest]
        await waiting(batcher, 9)
        encoder.gate.set()
        await asyncio.gather(first, *tasks)

    run(encoder, work, max_batch=2)
    assert [side for side, _ in encoder.calls] == ["query", "passage", "query", "passage", "query"]
    assert all(text.startswith(side) for side, texts in encoder.calls[1:] for text in texts)


def test_a_small_request_does_not_wait_behind_a_large_one() -> None:
    encoder, finished = StandInEncoder(), []

    async def work(batcher: Batcher) -> None:
        async def ask(name: str, texts: list[str]) -> None:
            await batcher.encode(texts, "query")
            finished.append(name)

        first = busy(encoder, batcher)
        await until(encoder.working)
        large = asyncio.ensure_future(ask("large", [f"large {n}" for n in range(40)]))
        await waiting(batcher, 41)
        small = asyncio.ensure_future(ask("small", ["small"]))
        await waiting(batcher, 42)
        encoder.gate.set()
        await asyncio.gather(first, large, small)

    run(encoder, work, max_batch=4)
    assert finished == ["small", "large"]
    assert "small" in encoder.calls[1][1]


def test_a_batch_keeps_to_its_tokens_and_a_longer_text_goes_alone() -> None:
    encoder = StandInEncoder()
    long = "word " * 30

    async def work(batcher: Batcher) -> None:
        encoded = await batcher.encode(["a b c", long, "d e f", "g h i"], "query")
        np.testing.assert_array_equal(encoded.vectors[1], vector_of(long, "query"))

    batches = run(encoder, work, max_batch_tokens=10)
    assert [(batch.texts, batch.tokens) for batch in batches] == [(1, 5), (1, 32), (2, 10)]


def test_texts_of_a_caller_who_left_are_never_computed() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        first = busy(encoder, batcher)
        await until(encoder.working)
        leaving = asyncio.ensure_future(batcher.encode(["left 1", "left 2"], "query"))
        staying = asyncio.ensure_future(batcher.encode(["stays"], "query"))
        await waiting(batcher, 4)
        leaving.cancel()
        await waiting(batcher, 2)
        encoder.gate.set()
        await asyncio.gather(first, staying)
        assert batcher.waiting == 0

    run(encoder, work)
    assert [texts for _, texts in encoder.calls] == [["busy"], ["stays"]]


def test_what_has_no_room_is_refused_and_there_is_room_again_later() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        first = busy(encoder, batcher)
        await until(encoder.working)
        second = asyncio.ensure_future(batcher.encode(["a", "b"], "passage"))
        await waiting(batcher, 3)
        with pytest.raises(QueueFullError) as refused:
            await batcher.encode(["c"], "query")
        assert 1 <= refused.value.retry_seconds <= 30
        encoder.gate.set()
        await asyncio.gather(first, second)
        assert len((await batcher.encode(["c"], "query")).vectors) == 1

    run(encoder, work, max_waiting=3)


def test_a_failing_batch_fails_its_callers_and_the_next_is_served() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        with pytest.raises(EncodingError) as failed:
            await batcher.encode(["explode", *("x" * 9)], "query")
        assert "secret" in "".join(traceback.format_exception(failed.value))
        assert batcher.waiting == 0
        assert len((await batcher.encode(["fine"], "query")).vectors) == 1

    run(encoder, work, max_batch=2)
    # What was left of the failed request is not computed.
    assert [texts for _, texts in encoder.calls] == [["explode", "x"], ["fine"]]


def test_an_idle_model_does_not_wait_for_company_longer_than_told() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        started = asyncio.get_running_loop().time()
        await batcher.encode(["alone"], "query")
        assert 0.1 <= asyncio.get_running_loop().time() - started < 5

    run(encoder, work, max_wait_seconds=0.1)


def test_who_waits_when_the_batcher_closes_is_told() -> None:
    encoder = StandInEncoder()

    async def work(batcher: Batcher) -> None:
        busy(encoder, batcher)
        await until(encoder.working)
        queued = asyncio.ensure_future(batcher.encode(["queued"], "query"))
        await waiting(batcher, 2)
        closing = asyncio.ensure_future(batcher.close())
        with pytest.raises(asyncio.CancelledError):
            await queued
        encoder.gate.set()
        await closing

    run(encoder, work)


class Panic(BaseException):
    """As a panic in a Rust library arrives: not an Exception."""


class Faulty(StandInEncoder):
    """Fails once in a given way, or gives too few rows."""

    fault: BaseException | None = None
    in_count: bool = False
    too_few: bool = False

    def count_tokens(self, texts: Sequence[str], side: str) -> Lengths:
        if self.in_count:
            self.fail()
        return super().count_tokens(texts, side)

    def encode(self, texts: Sequence[str], side: str) -> Any:
        if not self.in_count:
            self.fail()
        rows = super().encode(texts, side)
        return rows[: len(texts) - self.too_few]

    def fail(self) -> None:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault


@pytest.mark.parametrize("in_count", [False, True])
@pytest.mark.parametrize(
    "fault", [Panic("panic"), SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError(), OSError()]
)
def test_whatever_the_model_raises_its_caller_hears_of_it_and_the_next_is_served(
    fault: BaseException, in_count: bool
) -> None:
    encoder = Faulty()

    async def work(batcher: Batcher) -> None:
        encoder.fault, encoder.in_count = fault, in_count
        with pytest.raises(EncodingError):
            await batcher.encode(["a", "b"], "query")
        assert len((await batcher.encode(["a"], "query")).vectors) == 1
        assert batcher.waiting == 0
        assert not batcher.is_failing(60)

    run(encoder, work)


def test_too_few_vectors_are_an_error_and_a_model_that_keeps_failing_is_known() -> None:
    encoder = Faulty()
    encoder.too_few = True

    async def work(batcher: Batcher) -> None:
        for _ in range(3):
            assert not batcher.is_failing(60)
            with pytest.raises(EncodingError, match="1 vector for 2 texts"):
                await batcher.encode(["a", "b"], "query")
        assert batcher.is_failing(60)
        encoder.too_few = False
        await batcher.encode(["a", "b"], "query")
        assert not batcher.is_failing(60)

    run(encoder, work)


class Overflowing(StandInEncoder):
    """Fails as an encoder in half precision does: for the whole call."""

    def encode(self, texts: Sequence[str], side: str) -> Any:
        rows = super().encode(texts, side)
        if "overflow" in texts:
            raise NotFiniteError("a vector is not finite in float16")
        return rows


def test_a_text_that_overflows_fails_nobody_else_in_its_batch() -> None:
    encoder = Overflowing()

    async def work(batcher: Batcher) -> None:
        asked = [["a", "b"], ["c"], ["overflow", "d"], ["e"], ["f"]]
        answers = await asyncio.gather(*(batcher.encode(texts, "query") for texts in asked), return_exceptions=True)
        assert [type(answer).__name__ for answer in answers] == [
            "Encoded", "Encoded", "NotFiniteError", "Encoded", "Encoded",
        ]  # fmt: skip
        for texts, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Encoded):
                np.testing.assert_array_equal(answer.vectors, [vector_of(text, "query") for text in texts])
        assert (batcher.waiting, batcher.is_failing(60)) == (0, False)

    run(encoder, work, max_wait_seconds=0.3)
    assert len(encoder.calls[0][1]) == 7
    assert len(encoder.calls) == 5  # halves of halves, not one call for each request


def test_a_text_that_overflows_fails_its_caller_and_says_nothing_of_the_model() -> None:
    encoder = Faulty()

    async def work(batcher: Batcher) -> None:
        for _ in range(4):
            encoder.fault = NotFiniteError("a vector is not finite in float16")
            with pytest.raises(NotFiniteError, match="not finite in float16"):
                await batcher.encode(["a"], "query")
        assert not batcher.is_failing(60)
        await batcher.encode(["a"], "query")

    run(encoder, work)

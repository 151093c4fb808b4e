"""Waiting for an answer, and the errors of the routes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from fastapi import Request

from llama2vec.errors import EngineError, FilterError, NotFiniteError
from llama2vec.serve.answering import described_errors, loaded, served_model, unless_gone
from llama2vec.serve.batcher import QueueFullError
from llama2vec.serve.loaded import Loaded, StoreChangedError
from llama2vec.serve.schemas import ErrorAnswer, Problem
from llama2vec.serve.service import Service
from llama2vec.serve.settings import ServeSettings


class Asked:
    """A request whose client hangs up, or waits for ever."""

    def __init__(self, *, hangs_up: bool = False) -> None:
        self.scope = {"started": 0.0}
        self._hangs_up = hangs_up

    async def receive(self) -> dict[str, str]:
        if not self._hangs_up:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}


def answer(error: Exception | None = None, *, hangs_up: bool = False, seconds: float = 3600) -> Any:
    async def work() -> str:
        if error is not None:
            raise error
        if hangs_up or seconds < 1:
            await asyncio.sleep(60)
        return "done"

    settings = ServeSettings(timeout_seconds=seconds)
    return asyncio.run(unless_gone(cast(Request, Asked(hangs_up=hangs_up)), work(), settings))


def test_work_that_ends_is_returned() -> None:
    assert answer() == "done"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFullError(3), 503, "queue_full"),
        (StoreChangedError(), 503, "store_changed"),
        (EngineError("Qdrant at http://secret does not answer"), 503, "engine_unavailable"),
        (NotFiniteError("overflow"), 500, "not_finite"),
        (FilterError("where: is empty"), 400, "invalid_value"),
    ],
)
def test_each_failure_is_a_problem_of_its_own(error: Exception, status: int, code: str) -> None:
    with pytest.raises(Problem) as caught:
        answer(error)
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_a_client_that_hangs_up_and_a_limit_end_the_work() -> None:
    with pytest.raises(Problem, match="hung up"):
        answer(hangs_up=True)
    with pytest.raises(Problem, match=r"no answer within 0\.01 s"):
        answer(seconds=0.01)


def test_errors_are_described_and_the_token_only_where_there_is_one() -> None:
    assert set(described_errors([], 400)) == {400, 421}
    assert set(described_errors(["token"], 404)) == {401, 404, 421}
    assert described_errors([], 400)[400]["model"] is ErrorAnswer


def test_before_loading_and_without_a_model_there_is_a_problem() -> None:
    service = Service(lambda: Loaded(None), ServeSettings())
    for ask in (loaded, served_model):
        with pytest.raises(Problem, match="still loading"):
            ask(service)
    service.loaded = Loaded(None)
    assert loaded(service) is service.loaded
    with pytest.raises(Problem, match="has none"):
        served_model(service)

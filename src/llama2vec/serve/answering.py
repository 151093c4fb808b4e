"""What the routes share: waiting for an answer as long as the client does, and the errors that they report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import Request

from llama2vec.errors import EngineError, FilterError, NotFiniteError
from llama2vec.serve.batcher import QueueFullError
from llama2vec.serve.gate import CLIENT_GONE
from llama2vec.serve.loaded import Loaded, ServedModel, StoreChangedError
from llama2vec.serve.schemas import ErrorAnswer, Problem
from llama2vec.serve.service import Service
from llama2vec.serve.settings import ServeSettings

ResultT = TypeVar("ResultT")

RETRY_WHILE_LOADING = {"Retry-After": "2"}
CUT_TEXTS = "X-Cut-Texts"
_ERRORS = {
    400: "The request does not fit", 401: "The token is missing or wrong", 404: "Unknown model, passage or file",
    408: "The request took too long to arrive", 413: "The body is too large", 421: "Unknown host name",
    500: "The service failed", 504: "The answer took too long",
    503: "Loading, too many texts waiting, or the store or its vector database fails; see Retry-After",
}  # fmt: skip


def loaded(service: Service) -> Loaded:
    """Return what the service answers from; a :class:`Problem` while it loads."""
    if service.loaded is None:
        raise Problem(503, "the model is still loading; try again soon", "loading", headers=RETRY_WHILE_LOADING)
    return service.loaded


def cut_header(cut: int) -> dict[str, str]:
    """Return the header that says how many texts of a request the model read only the beginning of."""
    return {CUT_TEXTS: str(cut)} if cut else {}


def served_model(service: Service) -> ServedModel:
    """Return the model; a :class:`Problem` where there is none, or while it loads."""
    model = loaded(service).model
    if model is None:
        raise Problem(404, "model: this service has none, only an index", "model_not_found", "model")
    return model


async def unless_gone(
    request: Request, work: Awaitable[ResultT], settings: ServeSettings, late: str = "send fewer texts at once"
) -> ResultT:
    """Wait for work as long as the client does and the limit allows; then cancel it, and tell what to do (``late``)."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    left = settings.timeout_seconds - (time.monotonic() - request.scope["started"])
    try:
        await asyncio.wait({working, gone}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if gone.done():
            raise Problem(CLIENT_GONE, "the client hung up", "client_gone")
        raise Problem(504, f"no answer within {settings.timeout_seconds:g} s; {late}", "timeout")
    except QueueFullError as error:
        headers = {"Retry-After": str(error.retry_seconds)}
        raise Problem(503, str(error), "queue_full", headers=headers) from None
    except StoreChangedError:
        text = "the index was rewritten and cannot be opened again; the service's log says why, and what to mend"
        raise Problem(503, text, "store_changed") from None
    except EngineError:
        text = "the vector database of this index does not answer, or holds another state of it; bm25 needs none"
        raise Problem(503, text, "engine_unavailable") from None
    except FilterError as error:
        raise Problem(400, str(error), "invalid_value", "where") from None
    except NotFiniteError:
        text = "the model gave numbers that are not finite for this text; serve it with --dtype float32"
        raise Problem(500, text, "not_finite") from None
    finally:
        working.cancel()
        gone.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def described_errors(secured: list[Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route for the schema."""
    wanted = sorted({*statuses, 421, *([401] if secured else [])})
    return {status: {"model": ErrorAnswer, "description": _ERRORS[status]} for status in wanted}

"""What every request passes: a number, the token, the size of its body, the headers of its answer, the count."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama2vec.serve.problems import Problem, problem_answer
from llama2vec.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/", "/healthz", "/openapi.json", "/page/page.css", "/page/page.js", "/page/icon.svg")
"""What needs no token: the page is the same for everybody and holds no data; it asks people for their token."""

_PATHS = (*OPEN_PATHS, "/search", "/metrics", "/v1/embeddings", "/v1/models")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")

CLIENT_GONE = 499
"""nginx' status for a client that hung up; only ever counted, since nobody is there to read it."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    # The page's address carries what was asked.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Pure ASGI, so that a body is measured while it arrives and not after.

    Args:
        app: What is behind the gate.
        settings: Largest body and longest time.
        token: Bearer token; None = everybody may ask.
        count: Told of route, method, status and seconds of every answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        token: str | None,
        count: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._settings, self._count = app, settings, count
        self._token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id, status = time.monotonic(), uuid.uuid4().hex, CLIENT_GONE
        scope["started"] = started

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check_token(scope)
            await self._app(scope, _Body(self._settings, scope, receive), send_with_headers)
        except Problem as problem:
            await problem_answer(problem)(scope, receive, send_with_headers)
        except Exception:
            logger.exception("request %s failed", request_id)
            if status != CLIENT_GONE:  # the answer had begun; the server cuts the connection
                raise
            message = f"something went wrong here, not in your request; the log has it as request {request_id}"
            await problem_answer(Problem(500, message, "internal_error"))(scope, receive, send_with_headers)
        finally:
            self._count(*_labels(scope), status, time.monotonic() - started)

    def _check_token(self, scope: Scope) -> None:
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Headers are Latin-1 on the way, and a token may be any text.
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            raise Problem(
                401,
                "this service wants a token: send 'Authorization: Bearer …' with the right one",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


class _Body:
    """Receives a request's body and refuses what is too large or too slow, before it is whole."""

    def __init__(self, settings: ServeSettings, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._most = settings.max_body_bytes
        self._ends = scope["started"] + settings.timeout_seconds
        self._seconds = settings.timeout_seconds
        self._bytes = 0
        self._whole = False
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._most:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._ends - time.monotonic())
        except TimeoutError:
            text = f"the request did not arrive within {self._seconds:g} s"
            raise Problem(408, text, "request_timeout", headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._bytes > self._most:
                raise self._too_large()
        return message

    def _too_large(self) -> Problem:
        text = f"the body is larger than {self._most:,} bytes; send fewer or shorter texts at once"
        # What is left of the body is not read, so nothing else can come over this connection.
        return Problem(413, text, "body_too_large", headers={"Connection": "close"})


def _labels(scope: Scope) -> tuple[str, str]:
    """Name a request's route and method for the metrics, never by what a client made up."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None) or (scope["path"] if scope["path"] in _PATHS else "other")
    return str(path), scope["method"] if scope["method"] in _METHODS else "other"

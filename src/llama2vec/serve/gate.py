"""What every request passes: its number, host, token and body size; the headers of its answer; the count."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama2vec.serve.schemas import Problem, problem_answer
from llama2vec.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

OPEN_PATHS = (
    "/", "/healthz", "/openapi.json", "/page/page.css", "/page/page.js", "/page/keys.js", "/page/hits.js",
    "/page/evidence.js", "/page/icon.svg",
)  # fmt: skip
"""Paths that need no token: the page is the same for all and holds no data; it asks people for their token."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_CLOSE = {"Connection": "close"}

_LINGER_SECONDS, _LINGER_SILENCE = 5.0, 1.0
"""After a refusal: the longest time for which the rest of a body is read, and the longest wait for its next part."""

CLIENT_GONE = 499
"""nginx's status for a client that hung up; it is counted and never sent."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    # The page's address contains the question.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Pure ASGI, so that a body is measured while it arrives and not afterwards.

    Args:
        app: The application it protects.
        settings: Largest body and longest time.
        token: Bearer token; None = requests need none.
        hosts: Names that requests may call the service by; None = any. On a loopback address this keeps out web pages
            whose own name was made to resolve to it (DNS rebinding).
        root_path: Path under which a proxy offers the service; requests may have it in their path or not.
        count: Called with route, method, status and seconds of every answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        token: str | None,
        hosts: Collection[str] | None,
        root_path: str,
        count: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._settings, self._hosts, self._count = app, settings, hosts, count
        self._token, self._root_path = token.encode() if token else None, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id, status = time.monotonic(), uuid.uuid4().hex, CLIENT_GONE
        scope = {**scope, "root_path": self._root_path or scope.get("root_path", "")}
        # The server sends no body for HEAD, so its answer is that of GET.
        inner = {**scope, "started": started, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}

        body, closes = _Body(self._settings, inner, receive), False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, closes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)  # documents have a stricter policy of their own
                closes = headers.get("Connection") == "close"
            elif closes and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.discard()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            self._check(scope)
            body.check_length()
            if not _path(scope):
                # The page asks for everything relative to its own address.
                query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
                moved = {"Location": f"{scope['root_path']}/{query}"}
                raise Problem(307, "the address of the page ends with a slash", "moved", headers=moved)
            await self._app(inner, body, send_with_headers)
        except Problem as problem:
            await problem_answer(problem)(scope, receive, send_with_headers)
        except Exception:
            client = scope.get("client") or ("an unknown address",)
            logger.exception("request %s from %s failed", request_id, client[0])
            if status != CLIENT_GONE:  # the answer had begun; the server cuts the connection
                raise
            message = f"the service failed on this request; its log explains why under request {request_id}"
            await problem_answer(Problem(500, message, "internal_error"))(scope, receive, send_with_headers)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._count(_route_name(inner), method, status, time.monotonic() - started)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy and this server could disagree on where the request ends (request smuggling).
            text = "the request has both Content-Length and Transfer-Encoding; send one of them"
            raise Problem(400, text, "invalid_framing", headers=_CLOSE)
        host = _host_name(headers.get("host", ""))
        # HTTP/1.0 needs no Host, and no browser leaves it out.
        if self._hosts is not None and host and host not in self._hosts:
            text = "this service does not answer to that host name; start it with --allow-host NAME to allow one more"
            raise Problem(421, text, "unknown_host", headers=_CLOSE)
        if self._token is None or _path(scope) in OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers travel as Latin-1, and a token may be any text.
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            text = "this service needs a token: send 'Authorization: Bearer …' with the right one"
            raise Problem(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


class _Body:
    """Receives a request's body and refuses one that is too large or too slow before it is complete."""

    def __init__(self, settings: ServeSettings, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._most = settings.max_body_bytes
        self._ends = scope["started"] + settings.timeout_seconds
        self._seconds = settings.timeout_seconds
        self._bytes = 0
        self._whole = False
        self._length = Headers(scope=scope).get("content-length", "")

    def check_length(self) -> None:
        """Refuse a body whose announced length is too large.

        Raises:
            Problem: It is.
        """
        if self._length.isdecimal() and int(self._length) > self._most:
            raise self._too_large()

    async def discard(self) -> None:
        """Read and drop what is left of the body, for a few seconds at most.

        Closing a connection that holds unread bytes resets it, and a reset takes the answer away from a client, or a
        proxy, that is still sending.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._whole:
                    message = await asyncio.wait_for(self._receive(), _LINGER_SILENCE)
                    self._whole = not message.get("more_body", False)

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._ends - time.monotonic())
        except TimeoutError:
            text = f"the request did not arrive within {self._seconds:g} s"
            raise Problem(408, text, "request_timeout", headers=_CLOSE) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._bytes > self._most:
                raise self._too_large()
        return message

    def _too_large(self) -> Problem:
        text = f"the body is larger than {self._most:,} bytes (--max-body-bytes); send fewer or shorter texts at once"
        # The rest of the body is not read, so the connection cannot carry another request.
        return Problem(413, text, "body_too_large", headers=_CLOSE)


def _path(scope: Scope) -> str:
    """Return a request's path below the path under which a proxy offers the service; Starlette routes by the same.

    >>> _path({"path": "/docs/search", "root_path": "/docs"}), _path({"path": "/docs-2", "root_path": "/docs"})
    ('/search', '/docs-2')
    """
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


def _host_name(header: str) -> str:
    """Return the name in a Host header without its port; "?" where there is none.

    >>> _host_name("LocalHost:8080"), _host_name("[::1]:80"), _host_name("")
    ('localhost', '::1', '')
    """
    try:
        return (urlsplit(f"//{header}").hostname or "?").rstrip(".") if header else ""
    except ValueError:
        return "?"


def _route_name(scope: Scope) -> str:
    """Name a request's route for the metrics, never by what a client made up."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", "other"))

"""Run the service on a port until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from llama2vec.errors import ConfigError
from llama2vec.serve.app import create_app
from llama2vec.serve.loaded import Loaded
from llama2vec.serve.settings import ProxySettings, ServeSettings

logger = logging.getLogger(__name__)

BACKLOG = 64
"""Connections that the event loop accepts at once, before any of them can be refused."""

_SPARE_FILES = 64
_LAST_SECONDS = 1.0
"""How long idle threads have for ending, once the service has stopped."""
_NO_PROXY = ProxySettings()
_HEAD_SECONDS = 10.0
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def most_connections(settings: ServeSettings) -> int:
    """Return the limit of open connections: the setting, or fewer where the process may not open as many files.

    Accepting must never fail for want of a file descriptor: asyncio would log a traceback for each attempt.
    """
    try:
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # Windows counts handles, and has enough of them
        return settings.max_connections
    used = 32
    with suppress(OSError):
        used = len(os.listdir("/proc/self/fd"))
    room = max(1, files - used - BACKLOG - _SPARE_FILES)
    if room < settings.max_connections:
        logger.warning(
            "at most %d connections instead of %d: this process may open %d files; raise `ulimit -n` for more",
            room, settings.max_connections, files,
        )  # fmt: skip
    return min(room, settings.max_connections)


class LimitedConnection(H11Protocol):
    """A client's connection with limits that uvicorn lacks: how many there are, and how long each may take.

    uvicorn closes idle kept-alive connections. It waits without end for the first request, for the rest of a request's
    head, and for a client that does not read its answer.

    Args:
        most: Open connections before a new one gets 503.
        seconds: Longest time for a client to read its answer, and for a request's head to arrive (at most 10 s).
    """

    def __init__(self, most: int, seconds: float, /, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most, self._head_seconds, self._read_seconds = most, min(_HEAD_SECONDS, seconds), seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.write(_FULL)
            transport.close()
        else:
            self._head_timer = self.loop.call_later(self._head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        for timer in (self._head_timer, self._read_timer):
            if timer is not None:
                timer.cancel()

    def handle_events(self) -> None:
        """Time the head of a request from its first byte to its last."""
        super().handle_events()
        in_request = self.cycle is not None and not self.cycle.response_complete
        if in_request and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif not in_request and self._head_timer is None and self.conn.trailing_data[0]:
            self._head_timer = self.loop.call_later(self._head_seconds, self._give_up)

    def on_response_complete(self) -> None:
        """Give the client time to read the answer before the connection is cut."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self._read_seconds, self._abort_if_unread)

    def pause_writing(self) -> None:
        """Time a client that does not read."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self._read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop timing: the client has read."""
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()

    def _abort_if_unread(self) -> None:
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.transport.abort()


_NOISE = ("Invalid HTTP request received.", "Unsupported upgrade request.")
"""What uvicorn logs of a client's faulty request: clients must not be able to fill the log."""


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port; 0 = any that is free.

    Raises:
        ConfigError: The port is in use, or this machine has no such address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # a label that is empty or too long cannot be encoded as a name
        reason = "is not a host name" if isinstance(error, UnicodeError) else error.strerror or error
        raise ConfigError(f"--host {host}: {reason}; give an address of this machine") from None
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0].lower()
        raise ConfigError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None


def address_of(listening: socket.socket) -> str:
    """Return the address to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_server(app: FastAPI, settings: ServeSettings, trusted_proxies: Sequence[str] = ()) -> uvicorn.Server:
    """Return a server that finishes open requests when it is stopped, and takes no new ones.

    Requests are not logged: questions are the users' own. X-Forwarded-For and X-Forwarded-Proto count only from
    ``trusted_proxies``, addresses or networks: uvicorn itself would believe every program on this machine.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            timeout_keep_alive=cast(int, settings.idle_seconds),
            timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
            backlog=BACKLOG,
            http=cast(Any, partial(LimitedConnection, most_connections(settings), settings.timeout_seconds)),
            ws="none",
        )
    )


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)


def serve(
    load: Callable[[], Loaded],
    settings: ServeSettings,
    listening: socket.socket,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    proxy: ProxySettings = _NO_PROXY,
    with_search: bool = True,
) -> None:
    """Answer until SIGTERM or Ctrl-C, then return: being told to stop is not a failure.

    ``listening`` comes from :func:`listen`; the other arguments are those of :func:`create_app`.

    Raises:
        Llama2VecError: The model or the index cannot be used.
    """
    failures: list[BaseException] = []

    def ready(loaded: Loaded) -> None:
        parts = [f"embeddings of {loaded.model.name}"] if loaded.model else []
        by_table = "; queries encoded by a query table" if loaded.table and not loaded.model else ""
        parts += [f"search ({', '.join(loaded.modes)}{by_table})"] if loaded.modes else []
        print(f"Serving {' and '.join(parts)} on {address_of(listening)}", flush=True)

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        load, settings, token=token, hosts=hosts, root_path=proxy.root_path, with_search=with_search, on_ready=ready,
        on_failure=failed,
    )  # fmt: skip
    server = new_server(app, settings, proxy.trusted_proxy)
    with _signals_end_it():
        server.run(sockets=[listening])
    if failures:
        raise failures[0]


def end_if_busy() -> None:
    """End this process where a thread still works for a request that was given up: Python would wait for it at exit."""
    others = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    ends = time.monotonic() + _LAST_SECONDS
    for thread in others:
        thread.join(max(0.0, ends - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Swallow the signal that stopped the server: uvicorn raises it again for the handler that was there before."""
    before: dict[int, Callable[..., object] | int | None] = {}
    with suppress(ValueError):  # only the main thread may set handlers
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

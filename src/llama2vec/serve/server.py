"""Run the service on a port until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from llama2vec.errors import ConfigError
from llama2vec.serve.app import create_app
from llama2vec.serve.connections import BACKLOG, limited_connections
from llama2vec.serve.service import Loaded
from llama2vec.serve.settings import ServeSettings

_NOISE = ("Invalid HTTP request received.", "Unsupported upgrade request.")
"""What uvicorn logs of a client's faulty request: clients must not be able to fill the log."""


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port; 0 = any that is free.

    Raises:
        ConfigError: The port is in use, or this machine has no such address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}; give an address of this machine") from None
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0].lower()
        raise ConfigError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None


def address_of(listening: socket.socket) -> str:
    """Return the address to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """Return a server that finishes open requests when it is stopped, and takes no new ones.

    Requests are not logged: questions are the users' own.
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
            timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
            backlog=BACKLOG,
            http=limited_connections(settings),
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
    with_search: bool = True,
) -> None:
    """Answer until SIGTERM or Ctrl-C, then return: being told to stop is not a failure.

    Args:
        load: Opens model and index; requests get 503 until it is done.
        settings: Limits.
        listening: From :func:`listen`.
        token: Bearer token that requests must carry; None = no token is needed.
        hosts: Names that requests may call the service by; None = any.
        with_search: Offer search and its page.

    Raises:
        Llama2VecError: The model or the index cannot be used.
    """
    failures: list[BaseException] = []

    def ready(loaded: Loaded) -> None:
        modes = f" and search ({', '.join(loaded.modes)})" if loaded.modes else ""
        print(f"Serving embeddings of {loaded.model.name}{modes} on {address_of(listening)}", flush=True)

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        load, settings, token=token, hosts=hosts, with_search=with_search, on_ready=ready, on_failure=failed
    )
    server = new_server(app, settings)
    with _signals_end_it():
        server.run(sockets=[listening])
    if failures:
        raise failures[0]


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

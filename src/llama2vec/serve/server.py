"""Run the service on a port until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from llama2vec.errors import ConfigError
from llama2vec.serve.app import create_app
from llama2vec.serve.service import Loaded
from llama2vec.serve.settings import ServeSettings

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Take a port; 0 = any that is free.

    Raises:
        ConfigError: The port is in use, or this machine has no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}; give an address of this machine") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(_BACKLOG)
    except OSError as error:
        taken.close()
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None
    return taken


def address_of(listening: socket.socket) -> str:
    """Return the address that a browser takes."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """Return a server that lets requests in flight end when it is stopped, and takes no new ones.

    Nothing is logged of a request: questions are the users' own.
    """
    # Its 'no answer yet, canceling' and the like are warnings; every start and stop is not.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
            backlog=_BACKLOG,
        )
    )


def serve(
    load: Callable[[], Loaded],
    settings: ServeSettings,
    listening: socket.socket,
    *,
    token: str | None = None,
    with_search: bool = True,
) -> None:
    """Answer until SIGTERM or Ctrl-C; being told to stop is no failure, so this returns.

    Args:
        load: Opens model and index; until it is done requests get 503.
        settings: Limits.
        listening: What :func:`listen` gave.
        token: Bearer token that requests must carry; None = none.
        with_search: Offer search and its page.

    Raises:
        Llama2VecError: The model or the index cannot be used.
    """
    failures: list[BaseException] = []

    def ready(loaded: Loaded) -> None:
        modes = f" and search ({', '.join(loaded.searcher.modes)})" if loaded.searcher else ""
        print(f"Serving embeddings of {loaded.model.name}{modes} on {address_of(listening)}", flush=True)

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(load, settings, token=token, with_search=with_search, on_ready=ready, on_failure=failed)
    server = new_server(app, settings)
    with _signals_end_it():
        server.run(sockets=[listening])
    if failures:
        raise failures[0]


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """The server raises the signal that stopped it once more when it is done, for whoever had it before: for us."""
    before: dict[int, Callable[..., object] | int | None] = {}
    with suppress(ValueError):  # only the main thread has signals
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

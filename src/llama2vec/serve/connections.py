"""Limits of a connection that uvicorn leaves open: how many there are, and how long each may take.

uvicorn closes idle kept-alive connections. It waits without end for the first request, for the rest of a request's
head, and for a client that does not read its answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from llama2vec.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

BACKLOG = 64
"""Connections that the event loop accepts at once, before any of them can be refused."""

_SPARE_FILES = 64
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


def limited_connections(settings: ServeSettings) -> type[H11Protocol]:
    """Return uvicorn's protocol with the limits of the settings."""

    class Limited(LimitedConnection):
        most = most_connections(settings)
        head_seconds = min(_HEAD_SECONDS, settings.timeout_seconds)
        read_seconds = settings.timeout_seconds

    return Limited


class LimitedConnection(H11Protocol):
    """One client's connection.

    Attributes:
        most: Open connections before a new one gets 503.
        head_seconds: Longest time for the head of a request to arrive.
        read_seconds: Longest time for a client to read its answer.
    """

    most: int
    head_seconds: float
    read_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_FULL)
            transport.close()
        else:
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

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
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def on_response_complete(self) -> None:
        """Give the client time to read the answer before the connection is cut."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.read_seconds, self._abort_if_unread)

    def pause_writing(self) -> None:
        """Time a client that does not read."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

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

"""Slow, idle and too many connections do not keep the service from others."""

from __future__ import annotations

import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from service_stand_ins import Running, Start, wait_until

from llama2vec.errors import ConfigError
from llama2vec.serve.server import listen, most_connections, new_server
from llama2vec.serve.settings import ServeSettings


def connect(service: Running, content: bytes = b"") -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(content)
    return connection


def status(connection: socket.socket) -> int | None:
    """Return the status of an answer, all of which is read; None = the connection was closed without one."""
    answer = b""
    while part := connection.recv(4096):
        answer += part
        head, end, body = answer.partition(b"\r\n\r\n")
        length = next((line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), b"0")
        if end and len(body) >= int(length):
            break
    return int(answer.split(b" ")[1]) if answer else None


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("content", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_request_whose_head_does_not_arrive_is_given_up(start: Start, content: bytes) -> None:
    service = start(timeout_seconds=0.4)
    started = time.monotonic()
    with closing(connect(service, content)) as connection:
        assert status(connection) == 408
        assert connection.recv(100) == b""
    assert 0.3 < time.monotonic() - started < 5


def test_bytes_that_dribble_in_do_not_extend_the_time(start: Start) -> None:
    service = start(timeout_seconds=0.5)
    with closing(connect(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")) as connection:
        started = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - started < 5:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.05)
        assert time.monotonic() - started < 3


def test_the_second_request_of_a_connection_is_timed_too(start: Start) -> None:
    service = start(timeout_seconds=0.4)
    with closing(connect(service, HEALTH)) as connection:
        assert status(connection) == 200
        connection.sendall(HEALTH)
        assert status(connection) == 200
        connection.sendall(HEALTH[:20])
        assert status(connection) == 408


def test_a_connection_beyond_the_limit_gets_503_and_there_is_room_again_later(start: Start) -> None:
    service = start(max_connections=3)
    service.client.close()
    with ExitStack() as open_ones:
        held = [open_ones.enter_context(closing(connect(service))) for _ in range(3)]
        wait_until(lambda: _status_of_another(service) == 503)
        held[0].close()
        wait_until(lambda: _status_of_another(service) == 200)


def _status_of_another(service: Running) -> int | None:
    try:
        with closing(connect(service, HEALTH)) as connection:
            return status(connection)
    except ConnectionError:
        return None


@contextmanager
def open_files(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_there_are_fewer_connections_than_files_and_the_user_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with open_files(256):
        most = most_connections(ServeSettings())
    assert 1 <= most < 256 - 128
    assert "raise `ulimit -n`" in caplog.text
    assert most_connections(ServeSettings(max_connections=1)) == 1


async def large_answers(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with more than the buffers of a connection hold."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


LARGE = 32 << 20


def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    listening = listen("127.0.0.1", 0)
    server = new_server(cast(Any, large_answers), ServeSettings(timeout_seconds=0.5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    with closing(socket.create_connection(listening.getsockname(), timeout=10)) as connection:
        connection.sendall(HEALTH)
        assert connection.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: not server.server_state.connections)
        received = 12
        # A cut connection shows as a reset or as an early end.
        with suppress(ConnectionError):
            while part := connection.recv(1 << 20):
                received += len(part)
        assert received < LARGE
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def test_faulty_requests_do_not_fill_the_log(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="uvicorn"):
        for content in (b"nonsense\r\n\r\n", HEALTH.replace(b"Host", b"Upgrade: x\r\nConnection: upgrade\r\nHost")):
            with closing(connect(service, content)) as connection:
                assert status(connection) in (400, 200)
    assert "Invalid HTTP" not in caplog.text
    assert "upgrade" not in caplog.text.lower()


def test_a_second_server_does_not_log_less(service: Running) -> None:
    filters = len(logging.getLogger("uvicorn.error").filters)
    new_server(lambda: None, ServeSettings())  # type: ignore[arg-type]
    assert len(logging.getLogger("uvicorn.error").filters) == filters


def in_thread(function: object) -> threading.Thread:
    thread = threading.Thread(target=function)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_a_port_in_use_and_an_address_of_others_are_told(service: Running) -> None:
    port = int(service.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port} \(address already in use\); choose"):
        listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)
    for host in ("search..example", ".example", "a" * 64):
        with pytest.raises(ConfigError, match=f"--host {host}: is not a host name; give an address of this machine"):
            listen(host, 0)


def test_requests_in_flight_are_answered_when_the_service_stops_and_new_ones_refused(start: Start) -> None:
    service = start()
    service.encoder.gate.clear()
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{service.url}/v1/embeddings", json={"input": "in flight"}, timeout=20))

    asking = [in_thread(ask) for _ in range(3)]
    wait_until(lambda: "llama2vec_waiting_texts 3.0" in service.client.get("/metrics").text)
    stopping = in_thread(service.stop)

    def refused() -> bool:
        try:
            httpx.get(f"{service.url}/healthz")
        except httpx.TransportError:
            return True
        return False

    wait_until(refused)
    assert stopping.is_alive()
    service.encoder.gate.set()
    for thread in (*asking, stopping):
        thread.join(20)
    assert [answer.status_code for answer in answers] == [200] * 3


STUCK = """
import sys, threading
from typing import cast
from service_stand_ins import PreparedQuery, StandInEncoder, StandInSearcher
from llama2vec.serve.loaded import Loaded
from llama2vec.serve.server import end_if_busy, listen, serve
from llama2vec.serve.settings import ServeSettings

class Encoder(StandInEncoder):
    def encode(self, texts, side):
        if "stuck" in texts:
            threading.Event().wait(120)
        return super().encode(texts, side)

class Searcher(StandInSearcher):
    def hits(self, question, mode, depth, **how):
        if question == "stuck":
            threading.Event().wait(120)
        return super().hits(question, mode, depth, **how)

query = PreparedQuery("c0ffee")
serve(lambda: Loaded(Encoder(), Searcher(query), query), ServeSettings(grace_seconds=1.0), listen("127.0.0.1", 0))
end_if_busy()
print("ended by itself", flush=True)
"""


@pytest.mark.parametrize("asked", ["/v1/embeddings", "/search", ""])
def test_a_stopped_service_ends_after_its_grace_whatever_still_runs(asked: str) -> None:
    tests = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(tests), str(tests.parent / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        body = {"input": "stuck"} if asked.startswith("/v1") else {"q": "stuck", "mode": "bm25"}
        if asked:
            with suppress(httpx.TimeoutException):
                httpx.post(url + asked, json=body, timeout=1)
        stopped = time.monotonic()
        process.terminate()
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert time.monotonic() - stopped < 15
        assert ("ended by itself" in out) == (not asked)
    finally:
        process.kill()
        process.communicate()

"""Limits, the token, and what becomes of requests that nobody waits for."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files

import httpx
import pytest
from service_stand_ins import Running, StandInEncoder, Start, wait_until

from llama2vec.serve.settings import ProxySettings

PAGE_FILES = [
    f"/page/{file.name}" for file in (files("llama2vec") / "serve/page").iterdir() if file.name != "index.html"
]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def in_thread(function: object) -> threading.Thread:
    thread = threading.Thread(target=function)  # type: ignore[arg-type]
    thread.start()
    return thread


def raw(service: Running, content: bytes) -> socket.socket:
    """Open a connection and send bytes over it."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(content)
    return connection


def request(body: bytes, *headers: str) -> bytes:
    lines = ("POST /v1/embeddings HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(start: Start) -> None:
    service = start(max_body_bytes=1000)
    with closing(raw(service, request(b"", "Content-Length: 1001"))) as connection:
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(start: Start) -> None:
    service = start(max_body_bytes=1000)
    # It never ends: the answer comes before the end all the same.
    chunk = b"200\r\n" + b" " * 0x200 + b"\r\n"
    with closing(raw(service, request(chunk * 3, "Transfer-Encoding: chunked"))) as connection:
        answer = connection.recv(4096)
        assert b"413" in answer.split(b"\r\n")[0]
        assert b"1,000 bytes" in answer + connection.recv(4096)

    def chunks() -> Iterator[bytes]:
        yield from [b'{"input": "', b"x" * 500, b'"}']

    answer = service.client.post("/v1/embeddings", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize("headers", [("Content-Length: 8000000",), ("Transfer-Encoding: chunked",)])
def test_a_refusal_reaches_a_client_that_sends_everything_first(start: Start, headers: tuple[str, ...]) -> None:
    service = start(max_body_bytes=1000)
    # More than the buffers of both sides hold: closing at once would reset the connection while it is written.
    body = b" " * 8_000_000
    if headers[0].startswith("Transfer"):
        body = b"7a1200\r\n" + body + b"\r\n0\r\n\r\n"
    with closing(raw(service, request(body, *headers))) as connection:
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]
        while connection.recv(4096):  # the end of the connection, and no reset
            pass


def test_a_refused_client_that_falls_silent_is_not_waited_for(start: Start) -> None:
    service = start(max_body_bytes=1000)
    with closing(raw(service, request(b"x", "Content-Length: 8000000"))) as connection:
        connection.settimeout(10)
        while connection.recv(4096):
            pass


def test_a_body_that_dribbles_in_is_not_waited_for(start: Start) -> None:
    service = start(timeout_seconds=0.3)
    with closing(raw(service, request(b'{"inp', "Content-Length: 100"))) as connection:
        assert b"408" in connection.recv(4096).split(b"\r\n")[0]


def test_number_and_length_of_texts_are_limited_and_the_schema_says_so(start: Start) -> None:
    service = start(max_texts=2, max_characters=10, max_depth=3)
    assert service.client.post("/v1/embeddings", json={"input": ["x" * 10, "y"]}).status_code == 200
    too_long = service.client.post("/v1/embeddings", json={"input": ["fine", "x" * 11]})
    assert code(too_long) == (400, "invalid_value")
    assert "more than 10 characters; shorten it, or start the service with a larger --max-characters" in too_long.text
    too_many = service.client.post("/v1/embeddings", json={"input": ["a", "b", "c"]})
    assert (
        "has 3 texts, more than the 2 of one request; send fewer, or start the service with a larger --max-texts"
        in (too_many.text)
    )
    assert service.client.get("/search", params={"q": "x" * 11}).status_code == 400
    assert service.client.get("/search", params={"q": "llama", "depth": 4}).status_code == 400
    assert service.client.get("/search", params={"q": "llama", "depth": 3}).status_code == 200
    schemas = service.client.get("/openapi.json").json()["components"]["schemas"]
    text, texts = schemas["EmbeddingRequest"]["properties"]["input"]["anyOf"]
    assert (text["maxLength"], texts["maxItems"], texts["items"]["maxLength"]) == (10, 2, 10)
    assert schemas["SearchRequest"]["properties"]["depth"]["maximum"] == 3


def test_with_a_token_only_page_and_health_are_open(start: Start) -> None:
    service = start(token="sésame")
    for header in (
        {},
        {"Authorization": "Bearer sesame"},
        {"Authorization": "Basic sésame"},
        {"Authorization": "sésame"},
    ):
        with httpx.Client(base_url=service.url, headers={k: v.encode() for k, v in header.items()}) as stranger:
            for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/search"),
                                 ("GET", "/metrics"), ("GET", "/nothing"), ("POST", "//v1/embeddings")):  # fmt: skip
                answer = stranger.request(method, path, content=b"{")
                assert code(answer) == (401, "invalid_api_key"), path
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            # A stylesheet or script has no way to send the token.
            for path in ("/healthz", "/", *PAGE_FILES):
                assert stranger.get(path).status_code == 200, path
    known = httpx.Client(base_url=service.url, headers={"Authorization": "Bearer sésame".encode()})
    with known:
        assert known.post("/v1/embeddings", json={"input": "llama"}).status_code == 200
        assert known.get("/metrics").status_code == 200
        security = known.get("/openapi.json").json()["paths"]["/search"]["get"]["security"]
    assert security == [{"HTTPBearer": []}]


def test_a_failure_of_ours_says_nothing_of_its_cause_but_where_to_look(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    for answer in (
        service.client.post("/v1/embeddings", json={"input": "explode"}),
        service.client.get("/search", params={"q": "explode", "mode": "bm25"}),
    ):
        assert code(answer) == (500, "internal_error")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        number = answer.headers["X-Request-Id"]
        assert number in answer.text
        assert any(number in record.message and record.exc_info for record in caplog.records)
    assert service.client.post("/v1/embeddings", json={"input": "fine"}).status_code == 200


def test_texts_of_a_client_that_hung_up_are_not_computed(service: Running) -> None:
    service.encoder.gate.clear()
    busy = in_thread(lambda: service.client.post("/v1/embeddings", json={"input": "busy"}))
    assert service.encoder.working.wait(10)
    body = json.dumps({"input": ["nobody", "waits"]}).encode()
    leaving = raw(service, request(body, f"Content-Length: {len(body)}"))
    wait_until(lambda: "llama2vec_waiting_texts 3.0" in service.client.get("/metrics").text)
    leaving.close()
    wait_until(lambda: "llama2vec_waiting_texts 1.0" in service.client.get("/metrics").text)
    service.encoder.gate.set()
    busy.join(10)
    assert service.client.post("/v1/embeddings", json={"input": "next"}).status_code == 200
    assert [texts for _, texts in service.encoder.calls] == [["busy"], ["next"]]
    wait_until(lambda: 'route="/v1/embeddings",status="499"} 1.0' in service.client.get("/metrics").text)


def test_a_connection_cut_within_a_body_leaves_the_service_as_it_was(service: Running) -> None:
    for _ in range(5):
        raw(service, request(b'{"input": "ll', "Content-Length: 100")).close()
    assert service.client.post("/v1/embeddings", json={"input": "llama"}).status_code == 200
    assert 'status="500"' not in service.client.get("/metrics").text


def test_a_request_that_takes_too_long_is_given_up(start: Start) -> None:
    service = start(timeout_seconds=0.3)
    service.encoder.gate.clear()
    started = time.monotonic()
    assert code(service.client.post("/v1/embeddings", json={"input": "slow"})) == (504, "timeout")
    assert code(service.client.get("/search", params={"q": "llama"})) == (504, "timeout")
    assert 0.6 <= time.monotonic() - started < 5
    service.encoder.gate.set()
    wait_until(lambda: service.client.post("/v1/embeddings", json={"input": "fine"}).status_code == 200)
    # The search waited behind it and was given up before its turn.
    assert ("query", ["llama"]) not in service.encoder.calls


def test_a_full_queue_asks_to_come_again(start: Start) -> None:
    service = start(max_waiting=2, max_texts=2)
    service.encoder.gate.clear()
    busy = in_thread(lambda: service.client.post("/v1/embeddings", json={"input": ["a", "b"]}))
    assert service.encoder.working.wait(10)
    for answer in (
        service.client.post("/v1/embeddings", json={"input": "c"}),
        service.client.get("/search", params={"q": "llama"}),
    ):
        assert code(answer) == (503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
    # What needs no model is answered all the same.
    assert service.client.get("/search", params={"q": "llama", "mode": "bm25"}).status_code == 200
    assert service.client.get("/healthz").status_code == 200
    service.encoder.gate.set()
    busy.join(10)
    assert service.client.post("/v1/embeddings", json={"input": "c"}).status_code == 200


def test_health_is_given_when_the_model_has_answered_once(start: Start) -> None:
    encoder, loading = StandInEncoder(), threading.Event()
    encoder.gate.clear()
    service = start(encoder=encoder, load=lambda: loading.wait(10) and None, wait=False)
    health = service.client.get("/healthz")
    assert (health.status_code, health.json()) == (
        503,
        {"status": "loading", "modes": [], "coming": [], "quick": False},
    )
    for answer in (
        service.client.post("/v1/embeddings", json={"input": "llama"}),
        service.client.get("/search", params={"q": "llama"}),
        service.client.get("/v1/models"),
    ):
        assert code(answer) == (503, "loading")
        assert answer.headers["Retry-After"]
    assert service.client.get("/metrics").status_code == 200
    loading.set()
    assert encoder.working.wait(10)
    assert service.client.get("/healthz").status_code == 503
    encoder.gate.set()
    wait_until(lambda: service.client.get("/healthz").status_code == 200)
    assert service.client.get("/healthz").json() == {
        "status": "ok",
        "modes": ["dense", "bm25", "hybrid"],
        "coming": [],
        "quick": False,
    }


def test_every_answer_forbids_foreign_content_and_the_page_needs_none(service: Running) -> None:
    for path in ("/", *PAGE_FILES, "/healthz", "/nothing"):
        headers = service.client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert len(headers["X-Request-Id"]) == 32
        assert "server" not in headers
    page = service.client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    for text in (page.text, *(service.client.get(path).text for path in PAGE_FILES)):
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
    assert service.client.get("/page/../gate.py").status_code == 404
    assert service.client.get("/page/%2e%2e/gate.py").status_code == 404


def test_a_request_with_two_lengths_is_refused_and_its_connection_closed(service: Running) -> None:
    body = b"2\r\n{}\r\n0\r\n\r\n"
    with closing(raw(service, request(body, "Content-Length: 2", "Transfer-Encoding: chunked"))) as connection:
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"send one of them" in answer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:9", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("search.example", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.nip.io", 421), ("[", 421),
        ("localhost.", 200),
    ],
)  # fmt: skip
def test_only_known_host_names_are_answered(start: Start, host: str, status: int) -> None:
    service = start(hosts={"localhost", "127.0.0.1", "::1", "search.example"})
    for path in ("/search?q=river", "/", "/healthz"):
        answer = service.client.get(path, headers={"Host": host})
        assert answer.status_code == status, path
    if status == 421:
        assert code(answer) == (421, "unknown_host")
        assert "--allow-host" in answer.text


def test_without_a_list_of_hosts_every_name_is_answered(service: Running) -> None:
    assert service.client.get("/healthz", headers={"Host": "anything.example"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/", "/metrics", "/v1/models", "/openapi.json", "/search?q=llama"])
def test_head_answers_as_get_does_without_a_body(service: Running, path: str) -> None:
    head, get = service.client.head(path), service.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert service.client.head("/v1/embeddings").status_code == 405


def test_vectors_that_are_not_finite_are_an_error_in_every_encoding(service: Running) -> None:
    for encoding in ("float", "base64"):
        answer = service.client.post("/v1/embeddings", json={"input": "overflow", "encoding_format": encoding})
        assert code(answer) == (500, "not_finite")
        assert "--dtype float32" in answer.text
    assert code(service.client.get("/search", params={"q": "overflow"})) == (500, "not_finite")


def test_a_store_rewritten_while_it_is_served_is_noticed(service: Running) -> None:
    assert service.client.get("/search", params={"q": "llama"}).status_code == 200
    service.searcher.store_changed = True
    for mode in ("dense", "bm25"):
        answer = service.client.get("/search", params={"q": "llama", "mode": mode})
        assert code(answer) == (503, "store_changed")
        assert "secret" not in answer.text
    health = service.client.get("/healthz")
    assert (health.status_code, health.json()["status"]) == (503, "store_changed")
    # Embeddings need no store.
    assert service.client.post("/v1/embeddings", json={"input": "llama"}).status_code == 200


def test_a_model_that_keeps_failing_is_not_healthy_until_it_answers_again(service: Running) -> None:
    for _ in range(3):
        assert service.client.post("/v1/embeddings", json={"input": "explode"}).status_code == 500
    health = service.client.get("/healthz")
    assert (health.status_code, health.json()["status"]) == (503, "failing")
    assert service.client.post("/v1/embeddings", json={"input": "fine"}).status_code == 200
    assert service.client.get("/healthz").status_code == 200


def test_a_model_that_hangs_is_not_healthy_until_it_answers_again(start: Start) -> None:
    service = start(timeout_seconds=0.5)
    service.encoder.gate.clear()
    assert code(service.client.post("/v1/embeddings", json={"input": "hangs"})) == (504, "timeout")
    wait_until(lambda: service.client.get("/healthz").json()["status"] == "failing")
    service.encoder.gate.set()
    wait_until(lambda: service.client.get("/healthz").status_code == 200)


@pytest.mark.parametrize(
    "path", ["/docs/search", "/search", "//search", "/docs//search", "/docs", "/docsearch", "/docs/docs/search"]
)
def test_the_token_guards_every_path_that_is_routed_to_search(start: Start, path: str) -> None:
    service = start(token="secret", proxy=ProxySettings(root_path="/docs"))
    without = httpx.get(f"{service.url}{path}?q=llama")
    assert without.status_code in (401, 307 if path == "/docs" else 401)
    assert httpx.get(f"{service.url}/docs/healthz").status_code == 200
    with_token = httpx.get(f"{service.url}{path}?q=llama", headers={"Authorization": "Bearer secret"})
    assert with_token.status_code == (200 if path in ("/docs/search", "/search") else 307 if path == "/docs" else 404)


def test_a_forwarded_header_from_anywhere_changes_nothing(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = start()
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.9"}
    failed = service.client.get("/search?q=explode&mode=bm25", headers=headers)
    assert failed.status_code == 500
    assert f"request {failed.headers['X-Request-Id']} from 127.0.0.1 failed" in caplog.text

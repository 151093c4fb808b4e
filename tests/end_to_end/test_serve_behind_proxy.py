"""The service behind a reverse proxy: nginx, where it is installed, and a small one of Python's."""

from __future__ import annotations

import http.client
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_stand_ins import Running, services, wait_until

from llama2vec.serve.settings import ProxySettings

pytestmark = pytest.mark.slow

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream llama2vec {{ server 127.0.0.1:{upstream}; keepalive 8; keepalive_timeout 1s; }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 4m;
        proxy_http_version 1.1;
        proxy_request_buffering off;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        location /kept {{ proxy_pass http://llama2vec; }}
        location /removed/ {{ proxy_pass http://llama2vec/; }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(upstream: int, folder: Path) -> Iterator[str]:
    """Start nginx with both ways to offer a service under a path; give its address."""
    program, port = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"), free_port()
    if program is None:
        pytest.skip("nginx is not installed")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, upstream=upstream, port=port), encoding="utf-8")
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _listens(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _Forward(BaseHTTPRequestHandler):
    """Forward each request over the client's own connection to the service, as a simple proxy does."""

    protocol_version = "HTTP/1.1"
    upstream = 0

    def setup(self) -> None:
        super().setup()
        self.to_service = http.client.HTTPConnection("127.0.0.1", self.upstream)

    def finish(self) -> None:
        super().finish()
        self.to_service.close()

    def do_GET(self) -> None:
        connection = self.to_service
        forwarded = ", ".join([*self.headers.get_all("X-Forwarded-For", []), str(self.client_address[0])])
        headers = {**self.headers, "X-Forwarded-For": forwarded, "X-Forwarded-Proto": "http"}
        headers.pop("Transfer-Encoding", None)
        if body := self._body():
            headers["Content-Length"] = str(len(body))
        connection.request(self.command, self.path.replace("/removed/", "/", 1), body, headers)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "date", "server", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def simple(upstream: int, folder: Path) -> Iterator[str]:
    """Start a proxy in a thread; give its address."""
    handler: Any = type("_Here", (_Forward,), {"upstream": upstream})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


Proxied = Callable[..., tuple[Running, httpx.Client]]


@pytest.fixture(params=[simple, nginx], ids=["simple", "nginx"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    """Return a function that starts a service for ``search.example`` and a client of the proxy that leads to it."""
    with services() as start, ExitStack() as stack:

        def run(*trusted: str, **options: Any) -> tuple[Running, httpx.Client]:
            proxy = ProxySettings(root_path="/kept", trusted_proxy=list(trusted))
            service = start(hosts={"search.example"}, proxy=proxy, **{"idle_seconds": 2, **options})
            url = stack.enter_context(request.param(int(service.url.rpartition(":")[2]), tmp_path))
            client = httpx.Client(base_url=url, headers={"Host": "search.example"}, timeout=20)
            return service, stack.enter_context(client)

        yield run


@pytest.mark.parametrize("path", ["/kept", "/removed"])
def test_page_search_and_embeddings_are_offered_under_a_path(proxied: Proxied, path: str) -> None:
    service, client = proxied(token="secret")
    page = client.get(f"{path}/")
    assert page.status_code == 200
    for name in ("page.css", "page.js", "icon.svg"):
        assert f'"page/{name}"' in page.text
        assert client.get(f"{path}/page/{name}").status_code == 200
    assert client.get(f"{path}/search?q=llama").status_code == 401
    client.headers["Authorization"] = "Bearer secret"
    assert client.get(f"{path}/search?q=llama").json()["hits"][0]["id"] == "camelids/1"
    answer = client.post(f"{path}/v1/embeddings", json={"input": "a llama"})
    assert (
        answer.json()["data"][0]["embedding"]
        == service.client.post("/v1/embeddings", json={"input": "a llama"}, headers={"Host": "search.example"}).json()[
            "data"
        ][0]["embedding"]
    )
    assert client.head(f"{path}/healthz").status_code == 200
    assert client.get(f"{path}/openapi.json").json()["servers"] == [{"url": "/kept"}]


def test_the_path_without_its_slash_leads_to_the_page(proxied: Proxied) -> None:
    _, client = proxied()
    moved = client.get("/kept?q=llama&mode=dense")
    assert moved.status_code == 307
    assert httpx.URL(moved.headers["Location"]).raw_path == b"/kept/?q=llama&mode=dense"


def test_other_host_names_are_refused_through_a_proxy_that_passes_them_on(proxied: Proxied) -> None:
    _, client = proxied()
    refused = client.get("/removed/search?q=llama", headers={"Host": "evil.example"})
    assert refused.status_code == 421
    # What the client says about the host counts for nothing.
    forged = {"Host": "evil.example", "X-Forwarded-Host": "search.example", "Forwarded": "host=search.example"}
    assert client.get("/removed/search?q=llama", headers=forged).status_code == 421


def test_large_and_streamed_bodies(request: pytest.FixtureRequest, proxied: Proxied) -> None:
    _, client = proxied(max_body_bytes=100_000)

    def stream(size: int) -> Iterator[bytes]:
        yield b'{"input": "'
        for _ in range(size // 1000):
            yield b"llama " * 166 + b"wool"
        yield b'"}'

    json = {"Content-Type": "application/json"}
    assert client.post("/kept/v1/embeddings", content=stream(50_000), headers=json).status_code == 200
    # The simple proxy does not look for an answer before it has sent the whole body.
    for content in (stream(200_000), b'{"input": "' + b"x" * 200_000 + b'"}') if "nginx" in request.node.name else ():
        refused = client.post("/kept/v1/embeddings", content=content, headers=json)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    assert client.get("/kept/search?q=llama").status_code == 200


def test_connections_are_kept_and_one_that_was_idle_costs_no_error(proxied: Proxied) -> None:
    _, client = proxied()
    assert [client.post("/kept/v1/embeddings", json={"input": "a"}).status_code for _ in range(20)] == [200] * 20
    time.sleep(1.3)  # longer than nginx keeps an idle connection, shorter than the service does
    assert [client.post("/kept/v1/embeddings", json={"input": "a"}).status_code for _ in range(5)] == [200] * 5


def test_the_services_own_time_limit_reaches_the_client(proxied: Proxied) -> None:
    service, client = proxied(timeout_seconds=0.5)
    service.encoder.gate.clear()
    late = client.post("/kept/v1/embeddings", json={"input": "slow"})
    service.encoder.gate.set()
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")


@pytest.mark.parametrize(
    ("trusted", "logged"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.9"), (("10.0.0.1",), "127.0.0.1")]
)
def test_forwarded_addresses_count_only_from_trusted_proxies(
    proxied: Proxied, caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...], logged: str
) -> None:
    _, client = proxied(*trusted)
    with caplog.at_level(logging.ERROR):
        failed = client.get("/kept/search?q=explode&mode=bm25", headers={"X-Forwarded-For": "203.0.113.9"})
    assert failed.status_code == 500
    assert f"request {failed.headers['X-Request-Id']} from {logged} failed" in caplog.text

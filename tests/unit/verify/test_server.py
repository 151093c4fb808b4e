"""A server as a backend: each fault of its answers is one line."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import encoder_for
from planting import Saved

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.model.encoder import Encoder

Models = Callable[[str], Saved]
Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


Answer = Callable[[dict[str, Any], dict[str, str]], tuple[int, bytes]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Return a starter of servers that answer POSTs as a function says."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    started: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/embeddings"
                status, content = answer(body, dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status == 307:
                    self.send_header("Location", "http://elsewhere/v1/embeddings")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A client that gave up is no error here.
        found.handle_error = lambda *_: None  # type: ignore[method-assign]
        started.append(found)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{found.server_address[1]}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def openai_answer(vectors: np.ndarray, encoding: str) -> bytes:
    def embedding(row: np.ndarray) -> object:
        return base64.b64encode(row.astype("<f4").tobytes()).decode() if encoding == "base64" else row.tolist()

    rows = [{"object": "embedding", "index": n, "embedding": embedding(row)} for n, row in enumerate(vectors)]
    # The order of the rows is the index's, not the list's.
    return json.dumps({"object": "list", "data": rows[::-1], "model": "x", "usage": {}}).encode()


def serving(
    saved: Saved, change: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors, side: str = ""
) -> Answer:
    """Answer as a server around our encoder; ``side`` ignores what is asked for."""
    encoder = Encoder.load(saved.folder, settings=ModelSettings(dtype="float32", device="cpu"))

    def answer(body: dict[str, Any], _: dict[str, str]) -> tuple[int, bytes]:
        encode = encoder.encode_queries if (side or body["input_type"]) == "query" else encoder.encode_passages
        return 200, openai_answer(change(encode(body["input"])), body["encoding_format"])

    return answer


@pytest.mark.parametrize("options", [[], ["--base64"]])
@pytest.mark.parametrize("kind", ["llama-paper", "llama-released"])
def test_a_server_with_our_encoder_passes(
    saved_models: Models, cli: Cli, server: Callable[[Answer], str], kind: str, options: list[str]
) -> None:
    saved = saved_models(kind)
    code, out, _ = cli(saved.folder, "--backend", "http", "--url", server(serving(saved)), *options)
    assert code == 0, out


def test_faults_of_a_server_are_named(saved_models: Models, cli: Cli, server: Callable[[Answer], str]) -> None:
    saved = saved_models("llama-paper")
    long = server(serving(saved, lambda vectors: vectors * np.float32(11)))
    code, out, _ = cli(saved.folder, "--backend", "http", "--url", long)
    assert code == 1
    assert "cause: missing normalization: queries and passages" in out
    deaf = server(serving(saved, side="passage"))
    code, out, _ = cli(saved.folder, "--backend", "http", "--url", f"{deaf}/v1")
    assert code == 1
    assert "cause: wrong prompt: queries: read with the SELF prompt, the passage's" in out
    short = server(serving(saved, lambda vectors: vectors[:, :8]))
    code, out, _ = cli(saved.folder, "--backend", "http", "--url", f"{short}/v1/embeddings")
    assert code == 1
    assert "cause: truncated dimensions" in out


def test_a_server_without_prompts_is_sent_them_as_text(
    saved_models: Models, cli: Cli, server: Callable[[Answer], str]
) -> None:
    saved = saved_models("llama-released")

    def plain(body: dict[str, Any], _: dict[str, str]) -> tuple[int, bytes]:
        assert set(body) == {"model", "input", "encoding_format"}
        assert body["model"] == "my-model"
        ids = [saved.tokenizer(text)["input_ids"] for text in body["input"]]
        return 200, openai_answer(np.stack([saved.last(row) for row in ids]), "float")

    options = ["--input-type-field", "none", "--served-name", "my-model"]
    code, out, _ = cli(saved.folder, "--backend", "http", "--url", server(plain), *options)
    assert code == 0, out
    assert "not checked: whether the server adds the prompts" in out
    assert "not checked: where the server cuts a long text" in out


def test_a_server_that_runs_the_tokenizer_of_a_servable_encoder_gets_the_texts_alone(
    llama_folder: Path, tmp_path: Path, cli: Cli, server: Callable[[Answer], str]
) -> None:
    encoder = encoder_for(llama_folder, settings=EncoderSettings(servable=True, passage_max_tokens=60))
    folder = encoder.save(tmp_path / "servable")
    saved = Encoder.load(folder, settings=ModelSettings(dtype="float32", device="cpu"))

    def strict(body: dict[str, Any], _: dict[str, str]) -> tuple[int, bytes]:
        if set(body) != {"model", "input", "encoding_format"}:
            return 422, b"unknown field"
        return 200, openai_answer(saved.encode_passages(body["input"]), "float")

    address = ["--backend", "http", "--url", server(strict)]
    code, out, _ = cli(folder, *address, "--input-type-field", "none")
    assert code == 0, out
    assert "not checked" not in out
    assert cli(folder, *address)[0] == 2
    # A server that does not run that part of a tokenizer is sent the prompts.
    code, out, _ = cli(folder, *address, "--input-type-field", "prompt")
    assert code == 1
    assert "not checked: whether the server adds the prompts" in out
    code, _, _ = cli(folder, "--export-texts", tmp_path / "texts.jsonl")
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["prompted"] == row["text"] for row in rows)


def test_prompts_sent_to_a_server_that_adds_them_are_named(
    saved_models: Models, cli: Cli, server: Callable[[Answer], str]
) -> None:
    for kind in ("llama-paper", "llama-released"):
        saved = saved_models(kind)
        answer = serving(saved)
        # Without a field the server cannot tell the sides apart, but by the prompt in the text.
        queries = [saved.contract["prompts"]["next_prompt"]]

        def told(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes]:
            side = "query" if all(queries[0] in text for text in body["input"]) else "passage"  # noqa: B023
            return answer({**body, "input_type": side}, headers)  # noqa: B023

        options = ["--backend", "http", "--url", server(told), "--input-type-field", "none"]
        code, out, _ = cli(saved.folder, *options)
        assert code == 1
        assert "cause: prompt twice: queries and passages: " in out


def test_the_token_goes_along_and_is_not_printed(
    saved_models: Models, cli: Cli, refused: Refused, server: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = saved_models("llama-paper")
    right = serving(saved)

    def guarded(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes]:
        return right(body, headers) if headers.get("Authorization") == "Bearer s3cret" else (401, b"{}")

    url = server(guarded)
    assert "refuses the token (HTTP 401)" in refused(saved.folder, "--backend", "http", "--url", url)
    line = refused(saved.folder, "--backend", "http", "--url", url, "--token", "wr0ng")
    assert "wr0ng" not in line
    assert "not a usable address or token" in refused(
        saved.folder, "--backend", "http", "--url", url, "--token", "a\nb"
    )
    monkeypatch.setenv("LLAMA2VEC_TOKEN", "s3cret")
    code, out, _ = cli(saved.folder, "--backend", "http", "--url", url)
    assert code == 0
    assert "s3cret" not in out


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (500, b'{"error": "out of\\nmemory"}', "answers HTTP 500: {"),
        (404, b"", "answers HTTP 404; correct --url"),
        (307, b"", "redirects to http://elsewhere/v1/embeddings"),
        (200, b"<html>", "not a list of embeddings"),
        (200, b"[]", "not a list of embeddings"),
        (200, b'{"data": 3}', "not a list of embeddings"),
        (200, b'{"data": [{"embedding": "%%%"}]}', "not a list of embeddings"),
        (200, b'{"data": [{"embedding": null}]}', "not a list of embeddings"),
        (200, b'{"data": [{"embedding": [[1.0]]}]}', "not a list of embeddings"),
        (200, b'{"data": [{"embedding": [1.0], "index": 0}]}', "1 vector came back for 6 texts"),
        (200, json.dumps({"data": [{"embedding": [1.0], "index": 0}] * 6}).encode(), "with the indices [0]"),
        (200, json.dumps({"data": [{"embedding": [1.0] * (n + 1)} for n in range(6)]}).encode(), "different widths"),
    ],
)
def test_answers_that_are_no_embeddings_are_one_line(
    saved_models: Models, refused: Refused, server: Callable[[Answer], str], status: int, content: bytes, told: str
) -> None:
    url = server(lambda *_: (status, content))
    assert told in refused(saved_models("llama-paper").folder, "--backend", "http", "--url", url)


def test_a_server_that_is_not_there_or_does_not_answer_is_one_line(
    saved_models: Models, refused: Refused, server: Callable[[Answer], str]
) -> None:
    folder = saved_models("llama-paper").folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "Connection refused); start the server" in refused(
        folder, "--backend", "http", "--url", f"http://127.0.0.1:{port}"
    )
    done = threading.Event()
    url = server(lambda *_: (200 if done.wait(5) else 500, b""))
    assert "no answer within 0.3 s" in refused(folder, "--backend", "http", "--url", url, "--timeout", 0.3)
    done.set()

"""``llama2vec serve`` as a process: a real index, every mode, one line for every mistake, and a clean stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from encoders import FLOAT32

from llama2vec.cli import main
from llama2vec.config import EncoderSettings
from llama2vec.model.encoder import Encoder

pytestmark = pytest.mark.slow

CPU = ["--dtype", "float32", "--device", "cpu"]


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code, arguments


@pytest.fixture(scope="module")
def model(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Encoder.load(llama_folder, settings=FLOAT32).save(tmp_path_factory.mktemp("served") / "adapted")


@pytest.fixture(scope="module")
def index(model: Path, corpus_file: Path) -> Path:
    run("encode", model, corpus_file, "-o", model.parent / "store", *CPU)
    run("index", model.parent / "store", "-o", model.parent / "index", "--bm25")
    return model.parent / "index"


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start the service on a free port; give the process, its address and the line it printed."""
    command = [sys.executable, "-m", "llama2vec.cli", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, process.communicate()[1]
        yield process, line.split()[-1], line
    finally:
        process.kill()
        process.communicate()


def test_a_real_index_is_served_in_all_its_modes_and_stops_with_requests_in_flight(
    index: Path, model: Path, corpus_rows: list[dict[str, str]]
) -> None:
    with serving(index, *CPU) as (process, url, line):
        assert line.startswith("Serving embeddings of adapted and search (hybrid, dense, bm25) on http://127.0.0.1")
        question = corpus_rows[5]["text"][:60]
        for mode in ("dense", "bm25", "hybrid"):
            answer = httpx.get(f"{url}/search", params={"q": question, "mode": mode, "depth": 24}, timeout=60).json()
            assert answer["modes"] == ["hybrid", "dense", "bm25"]
            assert _ranking(answer) == _expected(index, model, question, mode)
        text = "The castle of the river."
        vector = httpx.post(f"{url}/v1/embeddings", json={"input": text}, timeout=60).json()["data"][0]["embedding"]
        assert np.abs(np.array(vector) - Encoder.load(model, settings=FLOAT32).encode_passages([text])[0]).max() < 1e-5
        answers: list[int] = []
        body = {"input": [row["text"] for row in corpus_rows] * 8}

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).status_code)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        _wait_for_line(url, "llama2vec_waiting_texts 768.0")
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join(60)
        assert answers == [200] * 4
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/healthz")


def _ranking(answer: dict[str, list[dict[str, object]]]) -> list[object]:
    return [hit["id"] for hit in answer["hits"]]


def _expected(index: Path, model: Path, question: str, mode: str) -> list[str]:
    from llama2vec.retrieve.search.retriever import Retriever

    hits = Retriever.open(index, Encoder.load(model, settings=FLOAT32)).hits(question, mode, 24)  # type: ignore[arg-type]
    return [hit.passage.id for hit in hits]


def _wait_for_line(url: str, line: str) -> None:
    ends = time.monotonic() + 30
    while line not in httpx.get(f"{url}/metrics", timeout=30).text:
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_ctrl_c_stops_the_service_and_is_no_failure(model: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame\n")
    options = ("--model", model, "--token-file", token, "--name", "tiny", *CPU)
    with serving(*options) as (process, url, line):
        assert line.startswith("Serving embeddings of tiny on ")
        assert httpx.get(f"{url}/v1/models").status_code == 401
        models = httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer sesame"}).json()
        assert models["data"][0]["contract_hash"] == json.loads((model / "llama2vec.json").read_text())["hash"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_every_mistake_is_one_line(
    llama_folder: Path, index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    os.mkfifo(tmp_path / "fifo")
    taken = socket.create_server(("127.0.0.1", 0))
    mistakes: dict[str, list[object]] = {
        "name an index to search, or an encoder with --model": [],
        "no index at": [tmp_path / "nothing"],
        "address already in use": [index, "--port", taken.getsockname()[1]],
        "cannot be read": [index, "--token-file", tmp_path / "nothing"],
        "not a regular file": [index, "--token-file", tmp_path / "fifo"],
        "is empty": [index, "--token-file", empty],
        "--max-waiting 1 must be at least --max-texts 2048": [index, "--max-waiting", 1],
        "--max-batch 0: input should be greater than or equal to 1": [index, "--max-batch", 0],
        "no such model folder": ["--model", tmp_path / "nothing", "--port", 0],
        "was encoded under contract": [index, "--model", _another(llama_folder, tmp_path / "another"), "--port", 0],
    }
    for message, arguments in mistakes.items():
        with pytest.raises(SystemExit) as stopped:
            main(["serve", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert stopped.value.code == 2, (message, err)
        lines = [line for line in err.splitlines() if line.startswith("llama2vec: ")]
        assert len(lines) == 1, err
        assert message in lines[0]
        assert "Traceback" not in err
        assert out == ""
    taken.close()


def test_the_model_of_an_index_is_found_from_any_working_directory(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(index, *CPU) as (_, url, _line):
        assert httpx.get(f"{url}/search", params={"q": "river"}, timeout=60).status_code == 200
        assert httpx.get(f"{url}/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_a_store_rewritten_under_the_service_is_noticed(model: Path, corpus_file: Path, tmp_path: Path) -> None:
    run("encode", model, corpus_file, "-o", tmp_path / "store", *CPU)
    run("index", tmp_path / "store", "-o", tmp_path / "index", "--bm25")
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(corpus_file.read_text(encoding="utf-8").splitlines(keepends=True)[:5]), encoding="utf-8")
    with serving(tmp_path / "index", *CPU) as (_, url, _line):
        assert httpx.get(f"{url}/search", params={"q": "river"}, timeout=60).status_code == 200
        run("encode", model, fewer, "-o", tmp_path / "store", "--overwrite", *CPU)
        for mode in ("dense", "bm25", "hybrid"):
            answer = httpx.get(f"{url}/search", params={"q": "river", "mode": mode}, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_changed")
        assert httpx.get(f"{url}/healthz").json()["status"] == "store_changed"


def _another(plain: Path, folder: Path) -> Path:
    """Return an encoder with another contract."""
    return Encoder.load(plain, settings=FLOAT32, encoder=EncoderSettings(query_max_tokens=7)).save(folder)

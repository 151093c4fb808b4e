"""``llama2vec verify``: each backend on fresh saves, and one line for every mistake."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import KINDS, Saved

from llama2vec.cli import main
from llama2vec.config import ModelSettings
from llama2vec.model.encoder import Encoder

Models = Callable[[str], Saved]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["verify", *(str(argument) for argument in arguments), "--device", "cpu"])
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture
def refused(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        code, out, err = cli(*arguments)
        assert (code, out) == (2, ""), (out, err)
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("llama2vec: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run


Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_save_passes(saved_models: Models, cli: Cli, kind: str) -> None:
    for backend in ("llama2vec", "transformers"):
        code, out, _ = cli(saved_models(kind).folder, "--backend", backend)
        assert code == 0, out
        assert f"PASS: {backend} gives the vectors" in out


@pytest.mark.parametrize("kind", ["llama-paper", "llama-released"])
def test_a_fresh_save_passes_in_sentence_transformers(saved_models: Models, cli: Cli, kind: str) -> None:
    code, out, err = cli(saved_models(kind).folder, "--backend", "sentence-transformers")
    assert code == 0, out + err


def test_a_folder_that_sentence_transformers_knows_nothing_of_is_pooled_at_the_texts_end(
    saved_models: Models, cli: Cli, tmp_path: Path
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    code, out, _ = cli(folder, "--backend", "sentence-transformers")
    assert code == 1
    assert "cause: missing normalization" in out
    told = "cause: no EOS: queries and passages: the prompt does not end in its EOS token, nor is there any prompt"
    assert told in out


def test_code_in_the_folder_that_is_not_ours_is_not_run(saved_models: Models, refused: Refused, tmp_path: Path) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    module = folder / "portable_encoder.py"
    module.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + module.read_text(encoding="utf-8"), encoding="utf-8")
    assert "--trust-remote-code" in refused(folder, "--backend", "sentence-transformers")
    assert not (tmp_path / "ran").exists()


def test_another_number_format_fails_unless_the_tolerance_allows_it(
    saved_models: Models, cli: Cli, tmp_path: Path
) -> None:
    folder = saved_models("llama-paper").folder
    code, out, _ = cli(folder, "--dtype", "bfloat16", "--json", tmp_path / "found.json")
    assert code == 1
    assert "cause: lower precision" in out
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["passed"] is False
    assert [cause["fault"] for cause in found["causes"]] == ["lower precision"]
    assert found["sides"]["query"]["largest_difference"] > 1e-5
    assert cli(folder, "--dtype", "bfloat16", "--tolerance", "0.2")[0] == 0


# What the golden files can look like.


def copy_of(saved: Saved, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved.folder, tmp_path / "copy"))


def test_an_older_folder_says_what_is_missing_and_gets_golden_vectors_by_write(
    saved_models: Models, cli: Cli, refused: Refused, tmp_path: Path
) -> None:
    saved = saved_models("llama-layers")
    folder = copy_of(saved, tmp_path)
    (folder / "golden.json").unlink()
    (folder / "golden.npy").unlink()
    line = refused(folder)
    assert "saved before golden vectors were" in line
    assert f"llama2vec verify {folder} --write" in line
    before = (folder / "llama2vec.json").read_bytes()
    code, out, _ = cli(folder, "--write")
    assert code == 0, out
    assert "Wrote 6 golden vectors a side" in out
    assert (folder / "golden.npy").read_bytes() == (saved.folder / "golden.npy").read_bytes()
    assert (folder / "llama2vec.json").read_bytes() == before
    assert "--overwrite" in refused(folder, "--write")
    assert cli(folder, "--write", "--overwrite")[0] == 0


def test_golden_vectors_are_not_written_where_two_readings_disagree(
    saved_models: Models, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    (folder / "golden.json").unlink()
    monkeypatch.setattr("llama2vec.verify.plain.PlainModel.embed", lambda *_: np.full((6, 32), np.nan))
    assert "golden vectors would mean nothing" in refused(folder, "--write")
    assert not (folder / "golden.json").exists()


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, rehash: bool = False) -> None:
    from llama2vec.manifest import digest

    path = folder / "golden.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    if rehash:
        data.pop("hash")
        data["hash"] = digest(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: edit(folder, lambda data: data.update(tolerance=1.0)), "does not match its hash"),
        (lambda folder: edit(folder, lambda data: data["texts"].append("more")), "does not match its hash"),
        (lambda folder: edit(folder, lambda data: data["texts"].pop(), rehash=True), "5 texts on 2 sides"),
        (lambda folder: edit(folder, lambda data: data.update(format=9), rehash=True), "golden format 9"),
        (
            lambda folder: edit(folder, lambda data: data.update(contract="0" * 64), rehash=True),
            "contract 000000000000…",
        ),
        (lambda folder: (folder / "golden.json").write_text("{"), "cannot be read as golden vectors"),
        (lambda folder: (folder / "golden.json").write_text("[]"), "cannot be read as golden vectors"),
        (lambda folder: (folder / "golden.npy").unlink(), "golden.npy: cannot be read"),
        (lambda folder: (folder / "golden.npy").write_bytes(b"x"), "damaged or edited"),
        (lambda folder: (folder / "llama2vec.json").unlink(), "a model that llama2vec saved"),
    ],
)
def test_damaged_golden_files_are_one_line(
    saved_models: Models, refused: Refused, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    damage(folder)
    assert told in refused(folder)


def test_a_model_that_was_edited_is_refused_before_anything_is_compared(
    saved_models: Models, refused: Refused, tmp_path: Path
) -> None:
    folder = copy_of(saved_models("llama-paper"), tmp_path)
    contract = json.loads((folder / "llama2vec.json").read_text(encoding="utf-8"))
    contract["encoder"]["passage_max_tokens"] = 7
    (folder / "llama2vec.json").write_text(json.dumps(contract), encoding="utf-8")
    assert "does not match its hash" in refused(folder, "--backend", "transformers")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--backend", "onnx"], "no such backend"),
        (["--backend", "http"], "--url and --backend http belong together"),
        (["--url", "http://h"], "--url and --backend http belong together"),
        (["--backend", "http", "--url", "localhost:8000"], "not an address of a server"),
        (["--backend", "http", "--url", "http://h:x/"], "http://h:x/v1/embeddings: the connection broke"),
        (["--backend", "http", "--url", "http://127.0.0.1:1", "--token", "a\nb"], "no usable address or token"),
        (["--backend", "file"], "--vectors and --backend file belong together"),
        (["--dtype", "int8"], "no such number format"),
        (["--backend", "http", "--url", "http://h", "--dtype", "float32"], "leave --dtype out"),
        (["--backend", "file", "--vectors", "nothing.npy"], "nothing.npy: cannot be read"),
        (["--backend", "file", "--vectors", "nothing.csv"], "convert the file"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    saved_models: Models, refused: Refused, options: list[str], told: str
) -> None:
    assert told in refused(saved_models("llama-paper").folder, *options)


# Files.


def test_exported_texts_come_back_as_vectors_in_every_format(saved_models: Models, cli: Cli, tmp_path: Path) -> None:
    saved = saved_models("llama-paper")
    texts = tmp_path / "texts.jsonl"
    assert cli(saved.folder, "--export-texts", texts)[0] == 0
    rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").split("\n") if line]
    assert [row["id"] for row in rows[:2]] == ["query-0", "query-1"]
    assert len(rows) == 2 * len(saved.golden.texts)
    vectors = np.array([saved.last(saved.row(row["side"], row["text"])) for row in rows])
    np.save(tmp_path / "flat.npy", vectors)
    np.save(tmp_path / "stacked.npy", vectors.reshape(2, -1, 32))
    np.savez(tmp_path / "named.npz", query=vectors[:6], passage=vectors[6:])
    shuffled = [{"id": row["id"], "embedding": vector.tolist()} for row, vector in zip(rows, vectors, strict=True)]
    lines = [json.dumps(row) for row in reversed(shuffled)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("flat.npy", "stacked.npy", "named.npz", "rows.jsonl"):
        code, out, _ = cli(saved.folder, "--backend", "file", "--vectors", tmp_path / name)
        assert code == 0, out
        assert "not checked: " in out


def test_a_prompted_text_is_what_the_model_reads(saved_models: Models, cli: Cli, tmp_path: Path) -> None:
    for kind in ("llama-paper", "llama-released"):
        saved, texts = saved_models(kind), tmp_path / f"{kind}.jsonl"
        cli(saved.folder, "--export-texts", texts)
        rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").split("\n") if line]
        read = [saved.tokenizer(row["prompted"])["input_ids"] for row in rows]
        assert read == [saved.row(row["side"], row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.npy", np.zeros((5, 32), np.float32), "shape [5, 32] for 6 queries"),
        ("a.npy", b"no numpy", "write it again"),
        ("a.jsonl", b'{"id": "query-0"}\n', "line 1 is not"),
        ("a.jsonl", b'{"id": "query-0", "embedding": [1.0]}\n', "no vector for query-1, 11 of 12 are missing"),
    ],
)
def test_a_faulty_file_of_vectors_is_one_line(
    saved_models: Models, refused: Refused, tmp_path: Path, name: str, content: Any, told: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert told in refused(saved_models("llama-paper").folder, "--backend", "file", "--vectors", path)


# Servers.

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
        (200, b'{"data": [{"embedding": [1.0], "index": 0}]}', "6 texts were sent and 1 vectors came back"),
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
    import socket

    folder = saved_models("llama-paper").folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "cannot be reached (Connection refused)" in refused(
        folder, "--backend", "http", "--url", f"http://127.0.0.1:{port}"
    )
    done = threading.Event()
    url = server(lambda *_: (200 if done.wait(5) else 500, b""))
    assert "no answer within 0.3 s" in refused(folder, "--backend", "http", "--url", url, "--timeout", 0.3)
    done.set()

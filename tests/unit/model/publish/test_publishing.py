"""Encoders on the hub: pushed with the real client to a stub server, and opened from there."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import ModelError, ModelNotFoundError
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.model_card import CARD_MARK
from llama2vec.model.source import fetched, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub(ThreadingHTTPServer):
    """The few routes of the hub that creating, committing, listing and downloading need; every file is a small one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StubRoutes)
        self.files: dict[str, bytes] = {}
        self.visibility: str | None = None
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class StubRoutes(BaseHTTPRequestHandler):
    server: StubHub

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply_json(self, data: object, status: int = 200) -> None:
        self.reply(json.dumps(data).encode(), status, Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not body and self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        path = self.path.partition("?")[0]
        if self.server.refuses:
            self.reply_json({"error": "You don't have the rights"}, 403)
        elif path == "/api/repos/create":
            self.server.visibility = json.loads(body).get("visibility")
            self.reply_json({"url": f"{self.server.address}/me/tiny"})
        elif path == "/api/models/me/tiny/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.reply_json({"files": files})
        elif path == "/api/models/me/tiny/commit/main":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.reply_json({"commitUrl": f"{self.server.address}/me/tiny/commit/{COMMIT}", "commitOid": COMMIT})
        elif path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        else:
            self.reply_json({"error": path}, 404)

    def do_GET(self) -> None:
        path, files = self.path.partition("?")[0], self.server.files
        name = path.rpartition("/")[2]
        if path.startswith("/me/tiny/resolve/"):
            if name in files:
                self.reply(files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"')
            else:
                self.reply(b"", 404, X_Error_Code="EntryNotFound")
        elif path.startswith("/api/models/me/tiny/tree/"):
            self.reply_json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            )
        elif path.startswith("/api/models/me/tiny"):
            siblings = [{"rfilename": name} for name in files]
            self.reply_json({"id": "me/tiny", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        else:
            self.reply_json({"error": path}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def hub() -> Iterator[StubHub]:
    with StubHub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def encoder(llama_folder: Path) -> Encoder:
    settings = EncoderSettings(query_prompt="next", layers=2, passage_max_tokens=40)
    return Encoder.load(
        llama_folder, settings=ModelSettings(dtype="float32"), prompts=PROMPT_RECIPES["released"], encoder=settings
    )


@pytest.fixture
def online(hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubHub:
    """This process may ask the stub, and nothing else: its client was told to be offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub


OPEN = """
    import sys
    import numpy as np
    from llama2vec import Encoder
    from llama2vec.config import ModelSettings
    from sentence_transformers import SentenceTransformer

    texts = sys.argv[2:]
    ours = Encoder.load("me/tiny", settings=ModelSettings(dtype="float32"))
    theirs = SentenceTransformer("me/tiny", trust_remote_code=True, device="cpu")
    np.savez(
        sys.argv[1], ours=ours.encode_queries(texts), theirs=theirs.encode_query(texts), hash=ours.contract_hash
    )
"""


@pytest.mark.slow
def test_a_pushed_encoder_opens_from_the_hub_with_the_same_vectors(
    encoder: Encoder, online: StubHub, tmp_path: Path, sentences: list[str]
) -> None:
    folder = encoder.save(tmp_path / "saved")
    address = encoder.push_to_hub("me/tiny", private=True, token="hf_stub")
    assert address.endswith(f"/me/tiny/commit/{COMMIT}")
    assert online.visibility == "private"
    assert set(online.files) == {file.name for file in folder.iterdir()}
    for name in ("model.safetensors", "llama2vec.json", "portable_encoder.py", "modules.json", "golden.npy"):
        assert online.files[name] == (folder / name).read_bytes()
    card = online.files["README.md"].decode()
    assert 'SentenceTransformer("me/tiny"' in card
    assert str(tmp_path) not in card

    texts = ["", *sentences[:4], " ".join(sentences[:6])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": online.address, "HF_HOME": str(tmp_path / "new")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OPEN), str(tmp_path / "found.npz"), *texts],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert found["hash"] == encoder.contract_hash
    np.testing.assert_allclose(found["ours"], encoder.encode_queries(texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["theirs"], encoder.encode_queries(texts), atol=1e-5, rtol=0)


def test_a_card_that_somebody_wrote_on_the_hub_stays(encoder: Encoder, online: StubHub) -> None:
    online.files["README.md"] = b"# Mine\n"
    encoder.push_to_hub("me/tiny", token="hf_stub")
    assert online.files["README.md"] == b"# Mine\n"
    assert "llama2vec.json" in online.files


def test_a_card_of_ours_on_the_hub_is_renewed(encoder: Encoder, online: StubHub) -> None:
    online.files["README.md"] = f"{CARD_MARK}\n# Old\n".encode()
    encoder.push_to_hub("me/tiny", token="hf_stub")
    assert b"# tiny" in online.files["README.md"]


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="me/tiny: the hub did not take the upload"):
        encoder.push_to_hub("me/tiny", token="hf_stub")


def test_a_hub_that_refuses_is_told_in_one_line(encoder: Encoder, online: StubHub) -> None:
    online.refuses = True
    with pytest.raises(ModelError, match="me/tiny: the hub did not take the upload") as caught:
        encoder.push_to_hub("me/tiny", token="hf_stub")
    assert "\n" not in str(caught.value)
    assert online.files == {}


class StubApi:
    """What a push does, without a server."""

    uploaded: Path
    card: str | None = None

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return type("Url", (), {"repo_id": repo_id})

    def file_exists(self, repo_id: str, name: str) -> bool:
        return False

    def upload_folder(self, *, folder_path: Path, **_: Any) -> str:
        type(self).card = (folder_path / "README.md").read_text(encoding="utf-8")
        return "https://hub/commit/1"


def test_a_card_that_somebody_wrote_in_the_folder_is_pushed_as_it_is(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.model.publish.publishing.HfApi", StubApi)
    folder = encoder.save(tmp_path / "saved")
    (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
    Encoder.load(folder).push_to_hub("me/tiny")
    assert StubApi.card == "# Mine\n"


def test_a_push_leaves_the_encoder_where_it_came_from(
    encoder: Encoder, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.model.publish.publishing.HfApi", StubApi)
    encoder.push_to_hub("me/tiny")
    assert StubApi.card
    assert CARD_MARK in StubApi.card
    assert encoder.backbone.source.location == str(llama_folder)


def test_a_hub_that_cannot_be_asked_for_a_contract_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"someone/model: .*the hub cannot be reached"):
        fetched(resolve_model("someone/model"))
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    with caplog.at_level(logging.WARNING):
        assert fetched(resolve_model("someone/model")).location == str(snapshot)
    assert "cannot be asked for llama2vec.json" in caplog.text


def test_folders_and_files_are_no_names_of_the_hub(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    for name in (str(llama_folder), str(tmp_path / "model.gguf")):
        assert fetched(resolve_model(name)) == resolve_model(name)

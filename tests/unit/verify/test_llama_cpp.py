"""How a GGUF file's server is started and asked; `make stacks` does so with llama.cpp itself."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_for

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import BackendError, MissingDependencyError
from llama2vec.verify.llama_cpp import LlamaCpp

# Answers with the length of each text, the context that it was started with, and 1.
STAND_IN = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        rows = [{"index": row, "embedding": [len(text), int(sys.argv[2]), 1]} for row, text in enumerate(texts)]
        content = json.dumps({"data": rows}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("loading", sys.argv[1], flush=True)
print(f"address http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("xllamacpp", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def asked(folder: Path, prompts: PromptSettings, tmp_path: Path) -> LlamaCpp:
    settings = EncoderSettings(query_max_tokens=30, passage_max_tokens=50)
    encoder = encoder_for(folder, prompts, settings)
    encoder.save(tmp_path / "model")
    return LlamaCpp(tmp_path / "model.gguf", tmp_path / "model", encoder.contract, "</s>")


def test_texts_are_sent_with_the_prompt_and_an_eos_that_the_server_does_not_add(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.verify.llama_cpp._SERVER", STAND_IN)
    prompts = PromptSettings(self_prompt=" That is:")
    found = asked(llama_folder, prompts, tmp_path).embed("passage", ["river", "winter"])
    around = len(" That is:</s>")
    assert found[:, 0].tolist() == [5 + around, 6 + around]
    assert found[0, 1] >= 50 + 64
    bare = asked(llama_folder, PromptSettings(self_prompt="", next_prompt=""), tmp_path / "bare")
    np.testing.assert_array_equal(bare.embed("query", ["river"])[:, 0], [5])


def test_a_server_that_does_not_start_is_one_line(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.verify.llama_cpp._SERVER", "raise SystemExit(1)")
    with pytest.raises(BackendError, match=r"model\.gguf: llama\.cpp cannot open it"):
        asked(llama_folder, PromptSettings(), tmp_path).embed("query", ["river"])


def test_without_xllamacpp_the_package_is_named(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install xllamacpp"):
        asked(llama_folder, PromptSettings(), tmp_path)

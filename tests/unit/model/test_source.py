"""Model sources: names are told apart, damaged files are noticed, and the fingerprint covers every byte."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llama2vec.errors import ModelNotFoundError
from llama2vec.model.source import ModelSource, resolve_model, weights_fingerprint


def test_a_folder_a_gguf_file_and_a_hub_id_are_told_apart(llama_folder: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    assert resolve_model(str(llama_folder)) == ModelSource(str(llama_folder), str(llama_folder))
    assert resolve_model(str(gguf)) == ModelSource(str(gguf), str(tmp_path), "model.gguf")
    assert resolve_model("someone/model") == ModelSource("someone/model", "someone/model", hub_id="someone/model")
    assert resolve_model("gpt2") == ModelSource("gpt2", "gpt2", hub_id="gpt2")


def test_smollm2_is_found_in_its_package_and_else_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert resolve_model("smollm2-135m").location == "HuggingFaceTB/SmolLM2-135M-Instruct"
    (tmp_path / "smol.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: Spec)
    assert resolve_model("smollm2-135m") == ModelSource("smollm2-135m", str(tmp_path), "smol.gguf")


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone", "a/b/c", "gone.gguf"])
def test_a_path_to_nothing_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such model folder or file"):
        resolve_model(name)


def test_a_folder_without_a_model_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    file = tmp_path / "weights.bin"
    file.touch()
    with pytest.raises(ModelNotFoundError, match="not a model"):
        resolve_model(str(file))


def test_the_fingerprint_moves_with_the_weights_and_the_names(tmp_path: Path) -> None:
    file, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    content = bytearray(5 << 20)
    file.write_bytes(content)
    before = weights_fingerprint([file])
    other.write_bytes(content)
    assert weights_fingerprint([other]) != before
    for place in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert weights_fingerprint([file]) != before
    file.write_bytes(content)
    assert weights_fingerprint([file]) == before

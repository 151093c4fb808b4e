"""Model sources: names are told apart, damaged files are noticed, and the fingerprint covers every byte."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import FLOAT32

from llama2vec.config import PROMPT_RECIPES, EncoderSettings
from llama2vec.errors import ModelError, ModelNotFoundError, StoreError
from llama2vec.model import source as source_module
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import (
    ModelSource,
    ModelSpec,
    resolve_model,
    scratch_folder,
    weights_fingerprint,
)

TEXTS = ["The river by the castle.", "winter"]


def test_a_folder_a_gguf_file_and_a_hub_id_are_told_apart(llama_folder: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    assert resolve_model(str(llama_folder)) == ModelSource(str(llama_folder), str(llama_folder))
    assert resolve_model(str(gguf)) == ModelSource(str(gguf), str(tmp_path), "model.gguf")
    assert resolve_model("someone/model") == ModelSource("someone/model", "someone/model", hub_id="someone/model")
    assert resolve_model("gpt2") == ModelSource("gpt2", "gpt2", hub_id="gpt2")


def test_a_relative_path_stays_that_of_the_folder_in_which_it_was_given(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(llama_folder.parent)
    source = resolve_model(llama_folder.name)
    monkeypatch.chdir(tmp_path)
    assert ModelSpec.of_source(source).path == str(llama_folder)


def test_a_scratch_folder_goes_with_its_block_and_those_of_killed_processes_go_with_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from llama2vec.model.source import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1]), 'x-') as folder: print(folder, flush=True); time.sleep(60)"
    )
    (tmp_path / "x-mine").mkdir()
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with scratch_folder(tmp_path, "x-") as folder:
            assert theirs.is_dir()
            (folder / "file").touch()
        other.kill()
    assert theirs.is_dir()
    with scratch_folder(tmp_path, "x-"):
        assert not theirs.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x-mine"]


def test_smollm2_is_found_in_its_package_and_else_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert resolve_model("smollm2-135m").location == "HuggingFaceTB/SmolLM2-135M-Instruct"
    (tmp_path / "smol.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: Spec)
    assert resolve_model("smollm2-135m") == ModelSource("smollm2-135m", str(tmp_path), "smol.gguf")


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone", "a/b/c", "gone/", "gone.gguf"])
def test_a_path_to_nothing_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such model folder or file"):
        resolve_model(name)


def test_a_folder_without_a_model_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "export.json").write_text('{"made": {"runtime": "llama.cpp"}}')
    with pytest.raises(ModelNotFoundError, match=r"an export for llama\.cpp; `verify --backend llama\.cpp` reads it"):
        resolve_model(str(tmp_path))
    for other in ("{", "[]", '{"made": []}', '{"made": {}}'):
        (tmp_path / "export.json").write_text(other)
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


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"first")
    before = weights_fingerprint([file])
    assert not (tmp_path / "cache").exists(), "a file written just now may still change"
    monkeypatch.setattr(source_module, "_SETTLED_SECONDS", -60.0)
    assert weights_fingerprint([file]) == before
    monkeypatch.setattr(source_module, "file_sha256", lambda _file: pytest.fail("read again"))
    assert weights_fingerprint([file]) == before
    monkeypatch.undo()
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    times = file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights_fingerprint([file]) != before


@pytest.mark.parametrize("content", ["", "[]", "{", "5", '{"x": 1}'])
def test_a_damaged_or_unwritable_cache_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    expected = weights_fingerprint([file])
    monkeypatch.setattr(source_module, "_SETTLED_SECONDS", -60.0)
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file-hashes.json").write_text(content)
    assert weights_fingerprint([file]) == expected
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(file))
    assert weights_fingerprint([file]) == expected


def test_a_model_of_bin_files_has_a_fingerprint_of_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"one")
    source = resolve_model(str(folder))
    before = source.fingerprint()
    (folder / "pytorch_model.bin").write_bytes(b"two")
    assert source.fingerprint() != before


def test_a_name_that_begins_with_a_folder_here_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no such model in the folder runs"):
        resolve_model("runs/adapted")


def safetensors_bytes(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


WHOLE = safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\n", "Git LFS pointer"),
        ("model.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\n", "Git LFS pointer"),
        ("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\n", "Git LFS pointer"),
        ("model.gguf", b"PK", "not a GGUF file"),
        ("model.safetensors", WHOLE[:-1], "damaged or cut short"),
        ("model.safetensors", WHOLE + b"more", "damaged or cut short"),
        ("model.safetensors", WHOLE[:20], "damaged or cut short"),
        ("model.safetensors", b"", "damaged or cut short"),
        ("model.safetensors", safetensors_bytes([], b""), "damaged or cut short"),
        ("model.safetensors", safetensors_bytes({"a": 5}, b""), "damaged or cut short"),
        ("model.safetensors", (4).to_bytes(8, "little") + b"abcd", "damaged or cut short"),
        ("model.safetensors", WHOLE, None),
        ("model.safetensors", safetensors_bytes({"__metadata__": {"format": "pt"}}, b""), None),
    ],
)
def test_damaged_weight_files_are_named_before_they_are_read(
    tmp_path: Path, name: str, content: bytes, fault: str | None
) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / name
    file.write_bytes(content)
    source = resolve_model(str(file if name.endswith(".gguf") else tmp_path))
    if fault is None:
        source.check_files()
        return
    with pytest.raises(ModelError, match=f"{name}: .*{fault}.*; fetch it again"):
        source.check_files()


def test_a_pipe_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: not a regular file"):
        resolve_model(str(tmp_path)).check_files()


def as_stored(spec: ModelSpec, folder: Path) -> dict[str, object]:
    return {"corpus": "c.jsonl", "model": json.loads(json.dumps(spec.to_json(folder)))}


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_a_plain_model_is_loaded_again_with_its_prompts_and_settings(
    llama_folder: Path, tmp_path: Path, recipe: str
) -> None:
    settings = EncoderSettings(query_prompt="next", passage_max_tokens=7, pooling="mean")
    encoder = Encoder.load(llama_folder, settings=FLOAT32, prompts=PROMPT_RECIPES[recipe], encoder=settings)
    again = Encoder.from_spec(ModelSpec.of_store(as_stored(encoder.spec, tmp_path), tmp_path), FLOAT32)
    assert again.contract_hash == encoder.contract_hash
    np.testing.assert_array_equal(again.encode_queries(TEXTS), encoder.encode_queries(TEXTS))


def test_a_saved_encoder_is_named_by_its_path_alone_and_moves_with_its_store(
    llama_folder: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    saved = Encoder.load(llama_folder, settings=FLOAT32, encoder=EncoderSettings(passage_max_tokens=7)).save(
        runs / "adapted"
    )
    source = as_stored(Encoder.load(saved, settings=FLOAT32).spec, runs / "store")
    assert source["model"] == {"path": "../adapted"}
    runs.rename(tmp_path / "moved")
    again = Encoder.from_spec(ModelSpec.of_store(source, tmp_path / "moved" / "store"), FLOAT32)
    assert again.contract.encoder.passage_max_tokens == 7


def test_a_path_that_is_gone_is_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source_module, "resolve_hub", lambda name: pytest.fail(f"{name} was taken for a hub id"))
    spec = ModelSpec.of_store({"model": {"path": "runs/adapted"}}, tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"runs/adapted: no such model .* --model"):
        Encoder.from_spec(spec)


def test_a_folder_with_the_name_of_a_hub_id_is_not_what_a_store_means(tmp_path: Path) -> None:
    spec = ModelSpec.of_store({"model": {"name": "someone/model"}}, tmp_path)
    assert spec.source() == ModelSource("someone/model", "someone/model", hub_id="someone/model")
    assert spec.title == "someone/model"


def test_the_built_in_model_and_hub_ids_keep_their_names() -> None:
    for name in ("smollm2-135m", "someone/model"):
        spec = ModelSpec.of_source(resolve_model(name))
        assert spec.to_json("anywhere") == {"name": name}


def test_another_model_without_a_contract_reads_texts_as_the_store_did(llama_folder: Path, tmp_path: Path) -> None:
    settings = EncoderSettings(passage_max_tokens=5)
    source = as_stored(Encoder.load(llama_folder, settings=FLOAT32, encoder=settings).spec, tmp_path)
    moved = llama_folder.rename(tmp_path / "elsewhere") if llama_folder.is_relative_to(tmp_path) else llama_folder
    spec = ModelSpec.of_store(source, tmp_path, moved)
    assert spec.encoder == settings
    saved = Encoder.from_spec(spec, FLOAT32).save(tmp_path / "saved")
    for kept in (source, {}):
        assert ModelSpec.of_store(kept, tmp_path, saved) == ModelSpec(path=str(saved.resolve()))


def test_the_layers_that_a_model_without_a_contract_keeps_decide_its_hash_and_stand_in_its_spec(
    llama_folder: Path, tmp_path: Path
) -> None:
    whole, all_of_them = (
        Encoder.load(llama_folder, settings=FLOAT32.model_copy(update={"layers": count})) for count in (0, 2)
    )
    short = Encoder.load(llama_folder, settings=FLOAT32.model_copy(update={"layers": 1}))
    assert whole.contract_hash == all_of_them.contract_hash != short.contract_hash
    assert "layers" not in as_stored(all_of_them.spec, tmp_path)["model"]
    kept = as_stored(short.spec, tmp_path)
    for spec in (ModelSpec.of_store(kept, tmp_path), ModelSpec.of_store(kept, tmp_path, llama_folder)):
        again = Encoder.from_spec(spec, FLOAT32)
        assert again.contract_hash == short.contract_hash
        np.testing.assert_array_equal(again.encode_passages(["a river"]), short.encode_passages(["a river"]))
    saved = short.save(tmp_path / "saved")
    assert Encoder.load(saved, settings=FLOAT32).contract_hash == short.contract_hash != again.contract_hash


@pytest.mark.parametrize(
    "model", [None, [], {}, 5, "runs/demo/adapted", {"path": "a", "name": "b"}, {"path": "a", "extra": 1}, ""]
)
def test_a_store_that_names_no_model_is_one_line(tmp_path: Path, model: object) -> None:
    with pytest.raises(StoreError, match="does not say which model made it; name an encoder with --model"):
        ModelSpec.of_store({"model": model}, tmp_path)


def test_a_saved_encoder_without_its_contract_is_not_read_as_a_plain_model(llama_folder: Path, tmp_path: Path) -> None:
    folder = Encoder.load(llama_folder, dtype="float32").save(tmp_path / "saved")
    assert resolve_model(str(folder)).carries_contract
    (folder / "llama2vec.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"a saved encoder without its llama2vec\.json; restore that file"):
        resolve_model(str(folder))
    (folder / "llama2vec.json").mkdir()
    with pytest.raises(ModelNotFoundError, match="a saved encoder without"):
        resolve_model(str(folder))


def test_a_store_of_an_llm_that_names_the_format_of_its_contract_still_opens(
    llama_folder: Path, tmp_path: Path
) -> None:
    spec = ModelSpec.of_source(resolve_model(str(llama_folder)))
    found = ModelSpec.of_store({"model": spec.to_json(tmp_path) | {"contract_format": 2}}, tmp_path)
    assert found == ModelSpec.of_store({"model": spec.to_json(tmp_path)}, tmp_path)
    with pytest.raises(StoreError, match=r"encode again \(--overwrite\)"):
        ModelSpec.of_store({"model": spec.to_json(tmp_path) | {"contract_format": 1}}, tmp_path)

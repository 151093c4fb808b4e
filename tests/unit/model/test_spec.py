"""The model spec: what a store records loads the same encoder again, and a path is never taken for a hub id."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import ModelNotFoundError, StoreError
from llama2vec.model import spec as spec_module
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import ModelSource, resolve_model
from llama2vec.model.spec import ModelSpec

FLOAT32 = ModelSettings(dtype="float32", device="cpu")
TEXTS = ["The river by the castle.", "winter"]


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
    monkeypatch.setattr(spec_module, "resolve_hub", lambda name: pytest.fail(f"{name} was taken for a hub id"))
    spec = ModelSpec.of_store({"model": {"path": "runs/adapted"}}, tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"runs/adapted: no such model .* --model"):
        Encoder.from_spec(spec)
    with pytest.raises(ModelNotFoundError, match=r"'runs/adapted'; no such folder .* --model"):
        ModelSpec.of_store({"model": "runs/adapted", "prompts": None, "sets": None}, tmp_path)


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
    assert ModelSpec.of_store(source, tmp_path, saved) == ModelSpec(path=str(saved.resolve()))


def test_a_store_of_an_earlier_version_finds_its_model_beside_it(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "adapted").symlink_to(llama_folder)
    old = {"model": "runs/demo/adapted", "prompts": "released", "sets": ["query_max_tokens=9", 'passage_prompt="next"']}
    spec = ModelSpec.of_store(old, tmp_path / "moved" / "store")
    assert spec.path == str(llama_folder.resolve())
    assert spec.prompts == PROMPT_RECIPES["released"]
    assert spec.encoder == EncoderSettings(query_max_tokens=9, passage_prompt="next")
    assert spec.contract_format == 1
    assert ModelSpec.of_store({"model": "smollm2-135m"}, tmp_path).name == "smollm2-135m"


@pytest.mark.parametrize("model", [None, [], {}, 5, {"path": "a", "name": "b"}, {"path": "a", "extra": 1}, ""])
def test_a_store_that_names_no_model_is_one_line(tmp_path: Path, model: object) -> None:
    with pytest.raises(StoreError, match="does not say which model made it; name the model with --model"):
        ModelSpec.of_store({"model": model}, tmp_path)

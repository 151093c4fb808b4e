"""An encoder as a small difference from its LLM loads as any other model, with the vectors that it was saved with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import FLOAT32, encoder_for
from safetensors.torch import load_file, save_file

from llama2vec.config import EncoderSettings, LoraSettings
from llama2vec.errors import ContractError, ModelError, OutputExistsError
from llama2vec.integrations.sentence_transformers import load_sentence_transformer
from llama2vec.model.adapters import add_lora
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import load_golden
from llama2vec.model.local import fetched
from llama2vec.model.publish.compact import save_compact
from llama2vec.model.publish.portable_files import PUBLIC_FILES
from llama2vec.model.publish.publishing import write_model_card
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.model.top_layers import drop_top_layers, standardize

TEXTS = ["The river by the castle.", "winter"]
RANK = 3


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trained(llama_folder: Path, tmp_path: Path) -> Path:
    """An encoder whose linear layers differ from the LLM's by a product of rank 3."""
    settings = EncoderSettings(passage_prompt="self", passage_max_tokens=50)
    return tuned(encoder_for(llama_folder, settings=settings), tmp_path / "trained")


def tuned(encoder: Encoder, folder: Path) -> Path:
    model = add_lora(encoder.backbone, LoraSettings(rank=RANK, alpha=6), [], seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    encoder.backbone.model = model.merge_and_unload()
    return encoder.save(folder)


def vectors(model: Path | str) -> np.ndarray:
    return Encoder.load(model, settings=FLOAT32).encode_passages(TEXTS)


def test_a_compact_encoder_gives_the_vectors_of_the_encoder(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    made = save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=RANK)
    assert made.kept == pytest.approx(1, abs=1e-6)
    assert made.cosine == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(vectors(tmp_path / "small"), vectors(trained), atol=2e-3)
    assert np.abs(vectors(trained) - vectors(llama_folder)).max() > 0.02
    assert Encoder.load(tmp_path / "small").contract.encoder.passage_max_tokens == 50


def test_training_in_bfloat16_leaves_the_llm_recognizable(llama_folder: Path, tmp_path: Path) -> None:
    """All weights are rounded to bfloat16 then, also those that were not trained."""
    trained = tuned(Encoder.load(llama_folder, device="cpu", dtype="bfloat16"), tmp_path / "trained")
    assert {weight.dtype for weight in load_file(trained / "model.safetensors").values()} == {torch.bfloat16}
    made = save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=RANK)
    assert 0.99 < made.kept < 1
    assert made.cosine > 0.999


def test_a_smaller_rank_keeps_less(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    made = save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=1)
    assert 0.2 < made.kept < 0.95
    adapter = load_file(tmp_path / "small" / "adapter_model.safetensors")
    assert {min(weight.shape) for weight in adapter.values()} == {1}


def test_its_golden_vectors_are_those_that_loading_gives(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=RANK)
    encoder = Encoder.load(tmp_path / "small", settings=FLOAT32)
    golden = load_golden(tmp_path / "small", encoder.contract_hash)
    np.testing.assert_allclose(encoder.golden().vectors["query"], golden.vectors["query"], atol=1e-6)


@pytest.mark.parametrize("rank", [RANK, 300])  # Wider than every layer, and than the narrow k_proj
def test_peft_reads_the_adapter(rank: int, trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=rank)
    encoder = encoder_for(llama_folder, settings=EncoderSettings(passage_prompt="self", passage_max_tokens=50))
    encoder.backbone.model = PeftModel.from_pretrained(encoder.backbone.model, tmp_path / "small").merge_and_unload()
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), vectors(trained), atol=2e-3)


def test_norms_alone_may_differ(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    with torch.no_grad():
        encoder.backbone.model.model.layers[0].input_layernorm.weight *= torch.linspace(0.5, 2, 32)
    folder = encoder.save(tmp_path / "scaled")
    made = save_compact(folder, tmp_path / "small", base=str(llama_folder), rank=RANK)
    assert (made.kept, made.cosine) == (1.0, pytest.approx(1, abs=1e-5))
    np.testing.assert_allclose(vectors(tmp_path / "small"), vectors(folder), atol=2e-3)


def test_a_store_names_the_compact_folder_and_not_the_cache(
    trained: Path, llama_folder: Path, tmp_path: Path, cache: Path
) -> None:
    save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=RANK)
    spec = Encoder.load(tmp_path / "small", settings=FLOAT32).spec
    assert spec == ModelSpec(path=str(tmp_path / "small"))
    shutil.rmtree(cache)
    np.testing.assert_array_equal(Encoder.from_spec(spec, FLOAT32).encode_passages(TEXTS), vectors(tmp_path / "small"))


def test_it_is_merged_once(trained: Path, llama_folder: Path, tmp_path: Path, cache: Path) -> None:
    save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=RANK)
    first = Path(fetched(resolve_model(str(tmp_path / "small"))).location)
    assert list((cache / "merged").iterdir()) == [first]
    before = (first / "model.safetensors").stat().st_mtime_ns
    fetched(resolve_model(str(tmp_path / "small")))
    assert (first / "model.safetensors").stat().st_mtime_ns == before


def test_a_damaged_adapter_and_another_llm_are_refused(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(llama_folder, base)
    save_compact(trained, tmp_path / "small", base=str(base), rank=RANK)
    adapter = tmp_path / "small" / "adapter_model.safetensors"
    whole = adapter.read_bytes()
    adapter.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ContractError, match="the weights are not those"):
        vectors(tmp_path / "small")
    adapter.write_bytes(whole[:-7])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        vectors(tmp_path / "small")
    adapter.write_bytes(whole)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match="the weights are not those"):
        vectors(tmp_path / "small")
    (tmp_path / "small" / "compact.json").write_text(json.dumps({"format": "llama2vec-compact", "base": {}}))
    with pytest.raises(ModelError, match=r"compact\.json: names no LLM; restore the compact encoder"):
        vectors(tmp_path / "small")


def test_the_llm_is_the_one_that_the_manifest_names_wherever_it_lies(
    trained: Path, llama_folder: Path, tmp_path: Path
) -> None:
    manifest = {"stage": "adapt", "settings": {"model": {"name": str(llama_folder)}}}
    (trained / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert save_compact(trained, tmp_path / "small", rank=RANK).base == str(llama_folder)
    # The folder is made to be published: peft is told a name, not a place on this machine.
    config = json.loads((tmp_path / "small" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == llama_folder.name
    np.testing.assert_allclose(vectors(tmp_path / "small"), vectors(trained), atol=2e-3)


def test_an_llm_without_safetensors_is_refused(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(llama_folder, tmp_path / "base"))
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    save_compact(trained, tmp_path / "small", base=str(base), rank=RANK)
    (base / "model.safetensors").unlink()
    for use in (lambda: vectors(tmp_path / "small"), lambda: save_compact(trained, tmp_path / "new", base=str(base))):
        with pytest.raises(ModelError, match=r"base: has no weights in safetensors files"):
            use()


def test_a_whole_encoder_may_replace_a_compact_one(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    save_compact(trained, folder, base=str(llama_folder), rank=RANK)
    encoder = Encoder.load(folder, settings=FLOAT32)
    encoder.save(folder, overwrite=True)
    assert not {"compact.json", "adapter_model.safetensors", "adapter_config.json"} & {
        file.name for file in folder.iterdir()
    }
    np.testing.assert_array_equal(vectors(folder), encoder.encode_passages(TEXTS))


def test_what_a_difference_cannot_hold_is_refused(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing remains to save"):
        save_compact(encoder_for(llama_folder).save(tmp_path / "same"), tmp_path / "small", base=str(llama_folder))
    encoder = encoder_for(trained)
    with torch.no_grad():
        encoder.backbone.model.model.embed_tokens.weight += 1
    encoder.save(tmp_path / "other")
    with pytest.raises(
        ModelError, match=r"embed_tokens\.weight differs .* only differences of linear layers and norms"
    ):
        save_compact(tmp_path / "other", tmp_path / "small", base=str(llama_folder))
    assert not (tmp_path / "small").exists()
    with pytest.raises(ModelError, match="the rank is 0; give at least 1"):
        save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=0)


def test_another_output_is_never_replaced_unasked(trained: Path, llama_folder: Path, tmp_path: Path) -> None:
    save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=1)
    assert save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=1).rank == 1  # made before
    with pytest.raises(OutputExistsError, match="compact encoder with other settings"):
        save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=2)
    save_compact(trained, tmp_path / "small", base=str(llama_folder), rank=2, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="does not hold a compact encoder"):
        save_compact(trained, tmp_path / "mine", base=str(llama_folder), overwrite=True)


def test_a_compact_encoder_of_a_servable_one_merges_into_a_servable_folder(llama_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tuned(encoder_for(llama_folder, settings=EncoderSettings(servable=True)), tmp_path / "trained")
    made = save_compact(folder, tmp_path / "small", base=str(llama_folder), rank=RANK)
    assert made.stacks.startswith("opens in sentence-transformers (as it is)")
    merged = fetched(resolve_model(str(tmp_path / "small"))).location
    given = SentenceTransformer(merged, device="cpu", model_kwargs={"dtype": torch.float32}).encode(TEXTS)
    np.testing.assert_allclose(given, vectors(tmp_path / "small"), atol=1e-5)


@pytest.mark.parametrize("servable", [False, True])
def test_a_compact_folder_promises_nothing_that_only_the_full_model_does(
    servable: bool, llama_folder: Path, tmp_path: Path
) -> None:
    settings = EncoderSettings(servable=servable)
    folder = tuned(encoder_for(llama_folder, settings=settings), tmp_path / "trained")
    save_compact(folder, tmp_path / "small", base=str(llama_folder), rank=RANK)
    assert not [name for name in PUBLIC_FILES if (tmp_path / "small" / name).exists()]
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert "SentenceTransformer(" not in card
    assert "AutoModel" not in card
    assert f"its LLM, `{llama_folder.name}`" in card
    (saves,) = re.findall(r'python -c "(.*)"', card)
    assert saves.endswith("Encoder.load('small', dtype='float32').save('MODEL')")
    assert "library_name: llama2vec\n" in card
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippet) == 1
    assert 'Encoder.load("small", ' in snippet[0]
    assert write_model_card(tmp_path / "small")
    assert (tmp_path / "small" / "README.md").read_text(encoding="utf-8").count("SentenceTransformer(") == 0
    # The full model has them.
    full = Encoder.load(tmp_path / "small", settings=FLOAT32).save(tmp_path / "full")
    given = load_sentence_transformer(full, device="cpu", model_kwargs={"dtype": torch.float32}).encode(TEXTS)
    np.testing.assert_allclose(given, vectors(tmp_path / "small"), atol=1e-5)
    given = load_sentence_transformer(tmp_path / "small", device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(given.encode(TEXTS), vectors(tmp_path / "small"), atol=1e-5)
    assert "SentenceTransformer(" in (full / "README.md").read_text(encoding="utf-8")


def test_layers_that_an_encoder_left_out_stay_out(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    drop_top_layers(encoder.backbone.model, 1)
    standardize(encoder.backbone.model, lambda: encoder.encode_passages(["river", "winter", "a stone bridge"]))
    folder = tuned(encoder, tmp_path / "short")
    save_compact(folder, tmp_path / "small", base=str(llama_folder), rank=RANK)
    assert Encoder.load(tmp_path / "small", settings=FLOAT32).backbone.model.config.num_hidden_layers == 1
    np.testing.assert_allclose(vectors(tmp_path / "small"), vectors(folder), atol=2e-3)

"""The encoding contract: whatever decides a vector is part of it, and every change of it is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import encoder_for

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, PromptSettings
from llama2vec.errors import ContractError
from llama2vec.manifest import digest
from llama2vec.model.contract import CONTRACT_FILE, Contract, saved_settings
from llama2vec.model.prompt import PromptIds

RELEASED = PROMPT_RECIPES["released"]


@pytest.fixture
def saved(llama_folder: Path, tmp_path: Path) -> Path:
    return encoder_for(llama_folder).save(tmp_path / "saved")


def test_a_contract_hash_tells_prompts_lengths_and_weights_apart(llama_folder: Path, tied_llama_folder: Path) -> None:
    hashes = {
        encoder_for(llama_folder).contract_hash,
        encoder_for(llama_folder, RELEASED).contract_hash,
        encoder_for(llama_folder, None, EncoderSettings(passage_max_tokens=9)).contract_hash,
        encoder_for(tied_llama_folder).contract_hash,
    }
    assert len(hashes) == 4
    assert encoder_for(llama_folder).contract_hash in hashes


def edit_contract(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / CONTRACT_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["prompts"].update(self_prompt=" other: "),
        lambda data: data["encoder"].update(passage_max_tokens=3),
        lambda data: data["token_ids"]["suffixes"]["self"].pop(),
        lambda data: data.update(dtype="bfloat16"),
        lambda data: data.update(hash="0" * 64),
        lambda data: data.update(extra=1),
    ],
)
def test_a_contract_edited_by_hand_is_refused(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit_contract(saved, change)
    with pytest.raises(ContractError, match="does not match its hash"):
        encoder_for(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_contract_that_is_no_contract_is_refused(saved: Path, content: str) -> None:
    (saved / CONTRACT_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ContractError, match=rf"{CONTRACT_FILE}: (cannot be read|not a JSON object)"):
        encoder_for(saved)


def test_a_contract_of_another_format_and_one_with_gaps_are_refused(saved: Path) -> None:

    def rehash(data: dict[str, Any]) -> None:
        data.pop("hash", None)
        data["hash"] = digest(data)

    edit_contract(saved, lambda data: (data.update(format=3), rehash(data)))
    with pytest.raises(ContractError, match="contract format 3, and this llama2vec reads 2; save the model again"):
        encoder_for(saved)
    edit_contract(saved, lambda data: (data.update(format=2), data.pop("encoder"), rehash(data)))
    with pytest.raises(ContractError, match="incomplete contract"):
        encoder_for(saved)


def test_swapped_weights_are_refused(saved: Path, save_model: Callable[..., Path], tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", "llama", seed=5)
    shutil.copy(other / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(ContractError, match="the weights are not those"):
        encoder_for(saved)


def test_a_changed_tokenizer_is_refused(saved: Path, make_tokenizer: Callable[..., Any]) -> None:
    make_tokenizer(vocabulary=100).save_pretrained(saved)
    with pytest.raises(ContractError, match="other prompt ids"):
        encoder_for(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", 0.1),
        ("hidden_act", "gelu"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
        ("max_position_embeddings", 128),
        ("attention_dropout", 0.5),
    ],
)
def test_an_edited_config_is_named(saved: Path, key: str, value: object) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ContractError, match=rf"config\.json has {key}.* = .*made for"):
        encoder_for(saved)


def test_what_decides_no_vector_may_change_in_the_config(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    names = {"_name_or_path": "x", "transformers_version": "9.9", "use_cache": True, "architectures": ["X"]}
    (saved / "config.json").write_text(json.dumps(config | names))
    tokenizer = json.loads((saved / "tokenizer.json").read_text())
    truncation = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    (saved / "tokenizer.json").write_text(json.dumps(tokenizer | {"truncation": truncation}))
    encoder_for(saved)


def test_a_tokenizer_that_reads_texts_in_another_way_is_refused(saved: Path) -> None:
    tokenizer = json.loads((saved / "tokenizer.json").read_text())
    (saved / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ContractError, match=r"other prompt ids|tokenizer\.json is not the one"):
        encoder_for(saved)


def test_two_models_without_a_contract_that_differ_in_their_config_have_other_hashes(
    llama_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(llama_folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert encoder_for(other).contract_hash != encoder_for(llama_folder).contract_hash


def test_settings_are_read_without_the_model(saved: Path, llama_folder: Path) -> None:
    assert saved_settings(llama_folder) is None
    prompts, encoder = saved_settings(saved) or (None, None)
    assert prompts == PromptSettings()
    assert encoder == encoder_for(saved).contract.encoder


def test_contracts_of_earlier_versions_keep_their_hashes() -> None:
    paper = PromptIds((1,), {"self": (5, 6, 2), "next": (7, 6, 2)}, 1)
    contract = Contract(PromptSettings(), EncoderSettings(), paper, "float32", "0" * 64, {"hidden_size": 8}, "1" * 64)
    assert contract.hash == "511c208e8d2bc572c7f09e1009e2aefc0da22402874968929b3b745f87bb7151"
    ids = PromptIds((1, 9), {"self": (5, 30, 31), "next": (7, 32, 33)}, 2)
    released = Contract(
        RELEASED,
        EncoderSettings(layers=8, query_prompt="next"),
        ids,
        "bfloat16",
        "0" * 64,
        {"hidden_size": 8},
        "1" * 64,
    )
    assert released.hash == "5a3eba2ce7ff8c54dda4923afb29248027e13597d2fc5b9eb0c260802822c323"


def test_prefixes_of_both_sides_survive_saving(llama_folder: Path, tmp_path: Path) -> None:
    repllama = PROMPT_RECIPES["repllama"]
    encoder = encoder_for(llama_folder, repllama, EncoderSettings(query_prompt="next"))
    opened = encoder_for(encoder.save(tmp_path / "saved"))
    assert opened.contract == encoder.contract
    assert opened.contract.ids.next_prefix is not None
    np.testing.assert_array_equal(opened.encode_queries("river"), encoder.encode_queries("river"))
    other = repllama.model_copy(update={"next_prefix": "question: "})
    assert encoder_for(llama_folder, other).contract_hash != encoder_for(llama_folder, repllama).contract_hash


def test_prompts_that_repeat_the_text_are_not_saved(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder, PROMPT_RECIPES["echo"], EncoderSettings(pooling="mean"))
    with pytest.raises(ContractError, match="this encoder cannot be saved; choose other prompts"):
        encoder.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()

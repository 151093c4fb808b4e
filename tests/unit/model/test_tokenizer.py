"""A model's tokenizer and config are read without its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llama2vec.errors import NotCausalError
from llama2vec.model.tokenizer import load_model_config, load_tokenizer


def test_both_are_read_from_a_folder_without_weights(llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.truncation_side == "right"
    assert len(tokenizer("The river. " * 5000)["input_ids"]) > 5000
    assert load_model_config(str(folder)).model_type == "llama"


def test_limits_of_the_files_are_gone_before_the_first_text(llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "limited")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    cut = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    limited = {**content, "truncation": cut, "padding": {**pad, "pad_token": "<pad>"}}
    (folder / "tokenizer.json").write_text(json.dumps(limited), encoding="utf-8")
    backend = load_tokenizer(str(folder)).backend_tokenizer
    assert backend.truncation is None
    assert backend.padding is None


def test_the_config_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(NotCausalError, match="'t5' is not a causal language model; choose a decoder-only LLM"):
        load_model_config(str(tmp_path))

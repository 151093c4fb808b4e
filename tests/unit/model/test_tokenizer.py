"""A model's tokenizer and config are read without its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama2vec.config import PROMPT_RECIPES, ModelSettings
from llama2vec.errors import ModelError, NotCausalError
from llama2vec.model.adapters import add_slot_tokens_and_rows
from llama2vec.model.backbone import load_backbone
from llama2vec.model.tokenizer import drop_tokens_beyond, load_model_config, load_tokenizer


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


@pytest.mark.parametrize("kind", ["image_token", "extra", "plain", "pad_token"])
def test_added_tokens_that_the_model_has_no_rows_for_are_left_out(
    kind: str,
    make_model: Callable[..., Any],
    make_tokenizer: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Gemma 3's tokenizer has a token for images, one beyond the rows of its text models."""
    make_model("llama").save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    if kind == "plain":
        tokenizer.add_tokens(["<image>"])
    elif kind == "pad_token":
        tokenizer.add_special_tokens({"pad_token": "<image>"})
    else:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(tmp_path)
    if kind == "image_token":
        saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**saved, "image_token": "<image>"}))
    caplog.set_level("INFO", "llama2vec")
    backbone = load_backbone(ModelSettings(name=str(tmp_path), dtype="float32", device="cpu"))
    assert "no embedding rows for 1 added token of its tokenizer, which is left out: <image>" in caplog.text
    slots = add_slot_tokens_and_rows(backbone, PROMPT_RECIPES["released"])
    assert backbone.tokenizer.convert_tokens_to_ids(slots) == list(range(120, 120 + len(slots)))
    assert backbone.model.get_input_embeddings().weight.shape[0] == 120 + len(slots)
    backbone.tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.get_vocab() == backbone.tokenizer.get_vocab()
    assert "<image>" not in again.get_vocab()
    assert again("a river")["input_ids"] == make_tokenizer()("a river")["input_ids"]


def test_tokens_that_every_text_gets_are_not_left_out(make_tokenizer: Callable[..., Any]) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A <end>", special_tokens=[("<s>", 1), ("<end>", 120)]
    )
    with pytest.raises(ModelError, match="tiny: the tokenizer has ids up to 120, and the model has 120 embedding rows"):
        drop_tokens_beyond("tiny", tokenizer, 120)
    assert drop_tokens_beyond("tiny", make_tokenizer(), 120) is None

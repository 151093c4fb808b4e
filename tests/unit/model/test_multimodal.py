"""The language model of a multi-modal checkpoint gives the numbers of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fidelity.architectures import save_strengthened
from llama2vec.config import ModelSettings
from llama2vec.errors import NotCausalError
from llama2vec.model.backbone import load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.multimodal import text_part
from llama2vec.model.tokenizer import load_model_config

FLOAT32 = ModelSettings(dtype="float32", device="cpu")
TEXT: dict[str, Any] = {
    "vocab_size": 160, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
SIGHT: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
QWEN_SIGHT = {"depth": 1, "num_heads": 2, "patch_size": 4, "hidden_size": 16, "intermediate_size": 16}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
WHOLES: dict[str, tuple[dict[str, Any], str]] = {
    "gemma3": ({"text_config": {**TEXT, "sliding_window": 8}, "vision_config": SIGHT}, "gemma3_text"),
    "mistral3": (
        {"text_config": {**TEXT, "model_type": "mistral"}, "vision_config": {**SIGHT, "model_type": "pixtral"}},
        "mistral",
    ),
    "llava": (
        {
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {**SIGHT, "model_type": "clip_vision_model"},
        },
        "llama",
    ),
    "qwen2_5_vl": (
        {"text_config": {**TEXT, "rope_parameters": ROPE}, "vision_config": {**QWEN_SIGHT, "out_hidden_size": 32}},
        "qwen2",
    ),
    "qwen3_vl": (
        {
            "text_config": {**TEXT, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
            "vision_config": {**QWEN_SIGHT, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
        },
        "qwen3",
    ),
}


def save_whole(kind: str, folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **WHOLES[kind][0])).eval()
    save_strengthened(model, folder)
    return model


@pytest.mark.parametrize("kind", WHOLES)
def test_the_text_part_is_found_and_gives_the_numbers_of_the_whole(kind: str, tmp_path: Path) -> None:
    whole = save_whole(kind, tmp_path / "whole")
    backbone = load_backbone(ModelSettings(name=str(tmp_path / "whole"), dtype="float32", device="cpu"))
    assert backbone.model.config.model_type == load_model_config(str(tmp_path / "whole")).model_type == WHOLES[kind][1]
    assert backbone.missing_head == ()
    assert not any("vision" in name or "visual" in name for name, _ in backbone.model.named_parameters())
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
        torch.testing.assert_close(backbone.model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    # It is saved as a plain language model, which stock transformers reads.
    encoder = Encoder.from_backbone(backbone)
    before = encoder.encode_passages(["The ferry leaves.", "noon"])
    encoder.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == WHOLES[kind][1]
    again = Encoder.load(tmp_path / "saved", settings=FLOAT32)
    np.testing.assert_array_equal(again.encode_passages(["The ferry leaves.", "noon"]), before)


@pytest.mark.parametrize("inner", ["model.language_model.", "language_model.model."])
def test_weights_are_found_under_their_newer_and_older_names(inner: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = save_whole("llava", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    head = "language_model.lm_head." if inner.endswith("model.model.") else "lm_head."
    prefixes = dict.fromkeys(("model.language_model.", "language_model.model."), inner)
    prefixes |= dict.fromkeys(("language_model.lm_head.", "lm_head."), head)
    renamed = {}
    for name, weight in weights.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes.get(old, "") + name.removeprefix(old)] = weight
    assert sum(name.startswith(inner) for name in renamed) == 20
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = load_backbone(ModelSettings(name=str(tmp_path), dtype="float32", device="cpu")).model
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, whole(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_a_plain_model_stays_as_it_is_and_other_wholes_are_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig

    for kind in ("llama", "t5", "vit"):
        config = AutoConfig.for_model(kind)
        assert text_part(config) == (config, {})
    # Its text part is an encoder.
    AutoConfig.for_model("clip").save_pretrained(tmp_path)
    with pytest.raises(NotCausalError, match="'clip' is not a causal language model"):
        load_model_config(str(tmp_path))

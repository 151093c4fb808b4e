"""Adapters over 4-bit weights train, and what is saved is the whole model with the adapters merged."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import ModelSettings, load_config
from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.model.backbone import load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.four_bit import four_bit_loading

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def folder(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llama wide enough for blocks of 64 weights."""
    return save_model(tmp_path_factory.mktemp("llama"), hidden_size=64, intermediate_size=128)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"model.quantization needs bitsandbytes; pip install"):
        four_bit_loading(torch.device("cpu"))


def test_every_weight_cannot_be_trained_in_four_bits() -> None:
    from llama2vec.adapt.settings import AdaptConfig

    with pytest.raises(ConfigError, match=r"with quantization, set lora.rank above 0"):
        load_config(AdaptConfig, None, ["model.quantization=nf4", "model.lora.rank=0"])


@needs_bitsandbytes
def test_only_training_loads_the_projections_in_four_bits(folder: Path) -> None:
    settings = ModelSettings(name=str(folder), dtype="bfloat16", device="cpu", quantization="nf4")
    layer = load_backbone(settings, for_training=True).model.model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.uint8
    assert layer.input_layernorm.weight.dtype == torch.bfloat16
    assert load_backbone(settings).model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


@needs_bitsandbytes
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["adapt", "finetune"])
def test_a_saved_encoder_has_the_models_own_weights_and_the_merged_adapters(
    stage: str, folder: Path, corpus_file: Path, sentences: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from safetensors.torch import load_file

    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)
    common = [
        f"model.name={folder}", "model.dtype=bfloat16", "model.device=cpu", "model.quantization=nf4",
        "model.lora.rank=4", "optimizer.steps=4", "optimizer.batch_size=4", "optimizer.learning_rate=1e-2",
        "prompts=released", "optimizer.log_every=1",
    ]  # fmt: skip
    encoder = TRAIN[stage](common, corpus_file, sentences, tmp_path / "out")
    assert not hasattr(encoder.backbone.model, "is_quantized") or not encoder.backbone.model.is_quantized
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    found, own = (load_file(where / "model.safetensors") for where in (tmp_path / "out", folder))
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    place = "model.layers.0.mlp.up_proj"
    down, up = (adapter[f"base_model.model.{place}.lora_{letter}.weight"].float() for letter in "AB")
    assert up.abs().max() > 0
    expected = own[f"{place}.weight"].float() + 32 / 4 * up @ down
    torch.testing.assert_close(found[f"{place}.weight"].float(), expected, rtol=0, atol=1e-2)
    # The slot tokens have rows of their own, which were trained.
    assert len(found["model.embed_tokens.weight"]) == len(own["model.embed_tokens.weight"]) + 16
    again = Encoder.load(tmp_path / "out", device="cpu").encode_passages(sentences[:3])
    np.testing.assert_allclose(again, encoder.encode_passages(sentences[:3]), rtol=0, atol=1e-6)


@needs_bitsandbytes
@pytest.mark.slow
def test_layers_that_were_left_out_stay_out_when_the_adapters_are_merged(
    folder: Path, corpus_file: Path, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)
    common = [
        f"model.name={folder}", "model.dtype=bfloat16", "model.device=cpu", "model.quantization=nf4",
        "model.lora.rank=4", "optimizer.steps=2", "optimizer.batch_size=4",
        "encoder.servable=true", "encoder.layers=1", "encoder.drop_layers=1", "encoder.standardize=true",
    ]  # fmt: skip
    encoder = adapted(common, corpus_file, sentences, tmp_path / "out")
    again = Encoder.load(tmp_path / "out", device="cpu")
    assert again.backbone.model.config.num_hidden_layers == 1
    assert again.backbone.model.config.llama2vec == {"dropped_layers": 1, "standardized": True}
    np.testing.assert_allclose(
        again.encode_passages(sentences[:3]), encoder.encode_passages(sentences[:3]), rtol=0, atol=1e-6
    )


def adapted(common: list[str], corpus: Path, sentences: list[str], output: Path) -> Any:
    from llama2vec.adapt.settings import AdaptConfig
    from llama2vec.adapt.stage import adapt_model

    of_text = ["text.min_words=5", "text.max_words=20", "text.max_tokens=24", f"text.corpus={corpus}"]
    return adapt_model(load_config(AdaptConfig, None, [*common, *of_text]), output)


def finetuned(common: list[str], corpus: Path, sentences: list[str], output: Path) -> Any:
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.records import TrainingExample

    examples = [TrainingExample(" ".join(text.split()[1:4]), (text,), ()) for text in sentences[:30]]
    config = load_config(FinetuneConfig, None, [*common, "encoder.passage_max_tokens=24", "validation.share=0.1"])
    return finetune_model(config, output, examples=examples)


TRAIN = {"adapt": adapted, "finetune": finetuned}

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import FLOAT32, encoder_for

from llama2vec.config import EncoderSettings
from llama2vec.errors import ConfigError, ModelError
from llama2vec.model.backbone import decoder, layer_list
from llama2vec.model.encoder import Encoder
from llama2vec.model.top_layers import (
    check_droppable,
    check_standardizable,
    drop_top_layers,
    final_norm,
    standardize,
)


def test_the_shorter_model_is_saved_and_loads_as_one_of_its_architecture(
    architecture: str, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = encoder_for(save_model(tmp_path / "base", architecture), None, EncoderSettings(servable=True))
    ids = torch.tensor([[5, 9, 30, 7]])
    body = decoder(encoder.backbone.model)
    states = body(input_ids=ids, output_hidden_states=True).hidden_states
    drop_top_layers(encoder.backbone.model, 1)
    assert len(layer_list(encoder.backbone.model) or ()) == 1
    norm = next(module for name, module in body.named_children() if "norm" in name or name == "ln_f")
    torch.testing.assert_close(body(input_ids=ids).last_hidden_state, norm(states[1]))
    encoder.save(tmp_path / "short")
    again = Encoder.load(tmp_path / "short", settings=FLOAT32)
    assert again.backbone.model.config.num_hidden_layers == 1
    assert (again.encode_passages("river") == encoder.encode_passages("river")).all()


def test_lists_with_an_entry_a_layer_get_shorter_too(make_model: Callable[..., Any]) -> None:
    model = make_model("qwen3")
    assert len(model.config.layer_types) == 2
    drop_top_layers(model, 1)
    assert model.config.layer_types == ["full_attention"]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_standardized_norm_scales_each_dimension_as_documented(
    kind: str, save_model: Callable[..., Path], sentences: list[str], tmp_path: Path
) -> None:
    encoder = encoder_for(save_model(tmp_path / "base", kind), None, EncoderSettings(servable=True))
    model = encoder.backbone.model
    raw: list[np.ndarray] = []

    def vectors() -> np.ndarray:
        raw.append(encoder.encode_passages(sentences))
        return raw[0]

    standardize(model, vectors)
    spread = raw[0].std(axis=0, ddof=1)
    expected = raw[0] / np.maximum(spread, np.quantile(spread, 0.5, method="lower"))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_passages(sentences), expected, atol=1e-5)
    encoder.save(tmp_path / "saved")
    again = Encoder.load(tmp_path / "saved", settings=FLOAT32)
    np.testing.assert_allclose(again.encode_passages(sentences), expected, atol=1e-5)
    with pytest.raises(ModelError, match="output head says nothing; explain needs a model without that"):
        again.backbone.require_head("explain")


def test_texts_that_are_all_the_same_scale_nothing(make_model: Callable[..., Any]) -> None:
    model = make_model()
    standardize(model, lambda: np.full((3, 32), 32**-0.5, dtype=np.float32))
    torch.testing.assert_close(model.model.norm.weight.data, torch.ones(32))


def test_other_norms_are_refused(make_model: Callable[..., Any]) -> None:
    for kind in ("gpt2", "gpt_neox"):
        with pytest.raises(ConfigError, match="has no final RMS norm to scale"):
            check_standardizable(make_model(kind))
    for kind in ("llama", "qwen3", "mistral"):
        assert final_norm(make_model(kind)) is not None


def test_what_cannot_be_dropped_is_refused_in_one_line(make_model: Callable[..., Any]) -> None:
    model = make_model()
    check_droppable(model, 0)
    with pytest.raises(ConfigError, match="drop_layers is 2 and the model has 2 layers; lower it"):
        check_droppable(model, 2)
    model.config.num_hidden_layers = 3
    check_droppable(model, 0)
    with pytest.raises(ConfigError, match="LlamaForCausalLM has no single list of layers"):
        drop_top_layers(model, 1)

"""The second question of a process is read with packed weights; the first, and long work, by the model itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.speed import short_reading

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="PyTorch multiplies packed bfloat16 from AVX-512 on"
)
QUESTION = "a bridge over the river"


@pytest.fixture(autouse=True)
def tiny_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_reading, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(short_reading, "_LEAST_WEIGHTS", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Columns of every batch that is read with packed weights."""
    found: list[int] = []
    states = short_reading.ShortReading.states

    def noted(self: Any, input_ids: torch.Tensor, layers: int) -> Any:
        found.append(input_ids.shape[1])
        return states(self, input_ids, layers)

    monkeypatch.setattr(short_reading.ShortReading, "states", noted)
    return found


def loaded(folder: Path, dtype: str = "bfloat16", **settings: Any) -> Encoder:
    return Encoder.load(folder, settings=ModelSettings(dtype=dtype, device="cpu"), encoder=EncoderSettings(**settings))


@pytest.mark.parametrize("settings", [{}, {"layers": 2}, {"pooling": "mean"}], ids=["slot", "layers", "mean"])
def test_vectors_stay_and_the_first_question_packs_nothing(
    llama_folder: Path, sentences: list[str], reads: list[int], settings: dict[str, Any]
) -> None:
    encoder = loaded(llama_folder, **settings)
    stock = loaded(llama_folder, **settings)._encode([QUESTION, *sentences[:4]], "query")
    first = encoder.encode_queries(QUESTION)
    assert reads == []
    found = np.stack([encoder.encode_queries(text) for text in (QUESTION, *sentences[:4])])
    assert len(reads) == 5
    cosines = (found * stock).sum(axis=1)
    assert cosines.min() > 0.999
    assert found[0] @ first > 0.999
    # A few at once, of unequal lengths, are padded and read together.
    np.testing.assert_allclose(encoder.encode_queries([QUESTION, *sentences[:2]]), found[:3], atol=5e-3)
    assert len(reads) == 6


def test_long_work_passages_and_float32_are_read_as_ever(
    llama_folder: Path, sentences: list[str], reads: list[int]
) -> None:
    encoder, exact = loaded(llama_folder), loaded(llama_folder, "float32")
    many = sentences[:6] * 20
    for _ in range(3):
        encoder.encode_passages(QUESTION)
        exact.encode_queries(QUESTION)
        encoder.encode_queries(many)
        encoder.golden()
    assert reads == []


def test_other_processors_and_models_out_of_proportion_are_left_alone(
    llama_folder: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("cpu_has_bfloat16", lambda: False), ("_LEAST_WEIGHTS", 1 << 40), ("_MOST_WEIGHTS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(short_reading, name, value)
            encoder = loaded(llama_folder)
            for _ in range(3):
                encoder.encode_queries(QUESTION)
    assert reads == []


def test_a_changed_weight_is_packed_again_and_training_is_left_alone(llama_folder: Path, reads: list[int]) -> None:
    encoder = loaded(llama_folder)
    before = [encoder.encode_queries(QUESTION) for _ in range(2)][1]
    layer = encoder.backbone.model.model.layers[0].mlp
    with torch.no_grad():
        layer.down_proj.weight.mul_(-3)
    after = encoder.encode_queries(QUESTION)
    assert len(reads) == 2
    assert after @ loaded(llama_folder).encode_queries(QUESTION) < 0.999
    assert after @ before < 0.999
    # Another parameter in its place
    layer.down_proj.weight = torch.nn.Parameter(layer.down_proj.weight.detach() / -3)
    assert encoder.encode_queries(QUESTION) @ before > 0.999
    encoder.backbone.model.train()
    encoder.encode_queries(QUESTION)
    assert len(reads) == 3


def test_every_architecture_gives_its_own_vectors(
    save_model: Callable[..., Path], tmp_path: Path, architecture: str, sentences: list[str]
) -> None:
    folder = save_model(tmp_path, architecture)
    encoder, stock = loaded(folder), loaded(folder)
    encoder.encode_queries(QUESTION)
    for text in sentences[:3]:
        assert encoder.encode_queries(text) @ stock._encode(text, "query") > 0.999
    assert not any("forward" in module.__dict__ for module in encoder.backbone.model.modules())


def test_without_the_products_of_pytorch_there_is_one_line_and_the_stock_vectors(
    llama_folder: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: Any) -> Any:
        raise AttributeError("no such operator")

    monkeypatch.setattr(short_reading, "plain_decoder", gone)
    encoder = loaded(llama_folder)
    with caplog.at_level(logging.INFO):
        found = [encoder.encode_queries(QUESTION) for _ in range(4)]
    for one in found:
        np.testing.assert_array_equal(one, found[0])
    assert reads == []
    assert caplog.text.count("without packed weights: no such operator") == 1

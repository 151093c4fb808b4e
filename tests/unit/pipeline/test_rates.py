"""What an estimate of time rests on: layers of the model, timed here, or else the rate of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama2vec.config import ModelSettings
from llama2vec.pipeline import rates
from llama2vec.pipeline.rates import Rates, forward_operations, model_shape

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_SECONDS", 0.0)


def settings(folder: Path, *, rank: int = 4, **changes: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": str(folder), "lora": {"rank": rank}, **changes})


def test_reading_and_training_are_measured_once_for_texts_of_similar_length(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Rates(settings(llama_folder), torch.float32, CPU)
    assert found.described.endswith("measured here: ")
    measured = found.reading(20), found.training(20, settings(llama_folder))
    assert all(1e6 < rate < 1e14 for rate in measured)
    monkeypatch.setattr(rates, "_seconds", lambda _: pytest.fail("measured again"))
    assert (found.reading(30), found.training(17, settings(llama_folder))) == measured
    assert "training every weight" not in found.described
    assert found.described.startswith("GFLOP/s of layers with random weights")


def test_a_rate_is_work_over_time_of_the_batch_that_is_timed(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "_seconds", lambda turn: turn() is None or 0.5)
    length = 24
    work = 2 * (1024 // length) * forward_operations(model_shape(str(llama_folder)), length, length)
    for rank, passes in ((4, 2), (0, 3)):
        one = settings(llama_folder, rank=rank)
        assert Rates(one, torch.float32, CPU).training(length, one) == pytest.approx(passes * work)
    assert Rates(settings(llama_folder), torch.float32, CPU).reading(length) == pytest.approx(work)


def test_layers_are_made_as_far_as_caches_reach_and_no_weight_is_loaded(
    save_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "deep", num_hidden_layers=5)
    assert (
        rates._random_layers(settings(folder), model_shape(str(folder)), torch.float32, CPU, trained=True)[1].layers
        == 5
    )
    monkeypatch.setattr(rates, "_BYTES", 0)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loads weights"))
    model, shape = rates._random_layers(settings(folder), model_shape(str(folder)), torch.bfloat16, CPU, trained=False)
    assert (shape.layers, model_shape(str(folder)).layers, model.dtype) == (2, 5, torch.bfloat16)
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert Rates(settings(folder, layers=1), torch.float32, CPU).reading(16) > 0


def test_models_of_every_tiny_kind_can_be_timed(
    save_model: Callable[..., Path], architecture: str, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "model", architecture)
    found = Rates(settings(folder), torch.float32, CPU)
    assert (
        min(found.reading(24), found.training(24, settings(folder)), found.training(24, settings(folder, rank=0))) > 0
    )
    assert found.are_measured


def test_layers_that_cannot_be_timed_leave_the_rate_of_matrix_products(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError("needs its model\nand more")

    monkeypatch.setattr(rates, "_random_layers", fails)
    found = Rates(settings(llama_folder), torch.float32, CPU)
    assert 1e8 < found.reading(24) == found.training(24, settings(llama_folder)) < 1e14
    assert not found.are_measured
    assert "of which 40% are assumed; the layers cannot be timed by themselves (needs its model" in found.described


def test_with_a_rate_of_another_machine_nothing_is_measured(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "_seconds", lambda _: pytest.fail("measures"))
    found = Rates(settings(llama_folder), torch.float32, CPU, flops=1e12)
    assert found.reading(10) == found.training(500, settings(llama_folder)) == 4e11
    assert not found.are_measured
    assert "as --flops says" in found.described

"""One switch for every faster path: the same numbers inside, the stock model outside."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import load_backbone
from llama2vec.model.speed import fast_paths, freed_memory_kept

IDS = torch.arange(2 * 9).reshape(2, 9) % 60 + 3


def step(model: Any) -> dict[str, torch.Tensor]:
    """Loss and gradients of one pass with a mask."""
    model.zero_grad()
    loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS, use_cache=False).loss
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), **gradients}


def forwards(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


@pytest.fixture(params=["full", "lora"])
def trained(request: pytest.FixtureRequest, llama_folder: Any) -> Any:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32", device="cpu"))
    if request.param == "full":
        return backbone.model.train()
    model = add_lora(backbone, LoraSettings(rank=4), [], 0).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # Adapters that start at zero would hide errors in the gradients of their first matrix.
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def test_gradients_agree_and_the_stock_model_comes_back_bit_for_bit(trained: Any) -> None:
    stock = step(trained)
    with fast_paths(trained):
        assert forwards(trained)
        fast = step(trained)
    assert forwards(trained) == []
    assert trained.config._attn_implementation == "sdpa"
    assert fast.keys() == stock.keys()
    for name, value in stock.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max() + 1e-3))
    again = step(trained)
    assert all(torch.equal(again[name], value) for name, value in stock.items())


def test_a_training_that_fails_leaves_the_stock_model(trained: Any) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), fast_paths(trained):
        raise RuntimeError("out of memory")
    assert forwards(trained) == []
    assert trained.config._attn_implementation == "sdpa"


def test_models_of_other_architectures_train_alike(architecture: str, make_model: Callable[..., Any]) -> None:
    model = make_model(architecture).eval()  # no dropout
    stock = step(model)
    with fast_paths(model):
        fast = step(model)
    for name, value in stock.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max() + 1))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_blocks_cost_no_page_faults_the_second_time() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (64 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with freed_memory_kept():
        faults()
        assert faults() < 500
    faults()
    assert faults() > 5_000


@pytest.mark.parametrize("library", [None, object()])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    def load(name: str) -> Any:
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    with freed_memory_kept():
        pass

"""LoRA layers with the update inside the frozen product equal those of peft."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

from llama2vec.model.speed.lean_layers import fuse_lora


def two_layers(
    base_dtype: torch.dtype, bias: bool, rank: int = 4, dropout: float = 0.0
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The fused layer and peft's own, with the same weights, wrapped as peft wraps them."""
    from peft import LoraConfig, get_peft_model

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(24, 16, bias=bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(x)

    torch.manual_seed(0)
    net = Net().to(base_dtype)
    made = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(
                copy.deepcopy(net), LoraConfig(r=rank, lora_alpha=10, lora_dropout=dropout, target_modules=["proj"])
            )
        made.append(model)
    assert len(fuse_lora(made[0])) == 1
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in made[0].named_parameters():
            if "lora_" in name:
                weight.normal_()
                dict(made[1].named_parameters())[name].copy_(weight)
    return made[0], made[1]


def gradients(model: torch.nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    (out.float() * upstream).sum().backward()
    assert x.grad is not None
    found = {"out": out.detach(), "x": x.grad}
    for name, weight in model.named_parameters():
        if "lora_" in name:
            assert weight.grad is not None
            found[name] = weight.grad
        else:
            assert weight.grad is None
    return found


@pytest.mark.parametrize("bias", [False, True])
def test_the_fused_lora_layer_equals_pefts_forward_and_gradients(bias: bool) -> None:
    fused, plain = two_layers(torch.float32, bias)
    torch.manual_seed(2)
    x, upstream = torch.randn(3, 5, 24), torch.randn(3, 5, 16)
    found, expected = gradients(fused, x, upstream), gradients(plain, x, upstream)
    assert found.keys() == expected.keys()
    assert len(found) == 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_the_fused_layer_with_a_bfloat16_base_trains_float32_adapters() -> None:
    fused, plain = two_layers(torch.bfloat16, False)
    torch.manual_seed(2)
    x, upstream = torch.randn(6, 24).bfloat16(), torch.randn(6, 16)
    found, expected = gradients(fused, x, upstream), gradients(plain, x, upstream)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        torch.testing.assert_close(
            found[name].float(), value.float(), rtol=5e-2, atol=2e-2 * float(value.float().abs().max())
        )


def test_without_gradients_and_after_a_merge_the_fused_layer_still_agrees() -> None:
    fused, plain = two_layers(torch.float32, True)
    x = torch.randn(2, 24)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-5)
    with fused.disable_adapter(), plain.disable_adapter():  # type: ignore[operator]
        torch.testing.assert_close(fused(x), plain(x), rtol=0, atol=0)
    merged = fused.merge_and_unload()  # type: ignore[operator]
    torch.testing.assert_close(merged(x), plain(x), rtol=1e-5, atol=1e-5)


def test_dropout_runs_pefts_own_code() -> None:
    fused, plain = two_layers(torch.float32, False, dropout=0.5)
    x, upstream = torch.ones(3, 5, 24), torch.ones(3, 5, 16)
    found: list[Any] = []
    for model in (fused, plain):
        torch.manual_seed(7)
        found.append(gradients(model.train(), x, upstream))
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_a_model_without_adapters_is_left_alone() -> None:
    assert fuse_lora(torch.nn.Linear(2, 2)) == []

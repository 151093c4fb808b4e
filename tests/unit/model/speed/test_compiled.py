"""Compiled layers with LoRA added to the weights train as the stock ones, and leave the model as it was."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from llama2vec.errors import MissingDependencyError
from llama2vec.model.speed import compiled
from llama2vec.model.speed.compiled import compiled_layers

# torch looks at the gradients of what it traces.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def tiny_llama(lora: dict[str, Any] | None, dtype: torch.dtype = torch.float32) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    if lora is None:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", **lora))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def step(model: Any, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Loss over the last layers, and gradients."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(0, 50, (rows, columns), generator=generator)
    model.zero_grad()
    body = model.base_model.model.model if hasattr(model, "peft_config") else model.model
    hidden = body(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-2:]
    loss = sum(layer.float().square().mean() for layer in hidden)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), **found}


# aot_eager traces forward and backward as inductor does, without minutes of compiling.
@pytest.mark.parametrize(("lora", "as_on"), [(None, "cpu"), ({}, "cpu"), ({}, "cuda")])
def test_losses_and_gradients_equal_the_stock_models_and_later_sizes_compile_nothing(
    lora: dict[str, Any] | None, as_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if as_on == "cuda":
        monkeypatch.setattr(compiled, "_low_rank_linear", compiled._summed_linear)
    model = tiny_llama(lora)
    sizes = [(2, 7), (5, 9)]
    stock = [step(model, *size) for size in sizes]
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    with compiled_layers(model, backend="aot_eager"):
        found = [step(model, *sizes[0])]
        once = counts["frames"]["ok"]
        found.append(step(model, *sizes[1]))
        assert counts["frames"]["ok"] == once
    assert 0 < once <= 16  # the pieces of one layer, with and without a gradient of the input
    again = step(model, *sizes[0])
    for one, other in zip([*found, again], [*stock, stock[0]], strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-6)


def test_adapters_with_dropout_keep_pefts_forward() -> None:
    model = tiny_llama({"lora_dropout": 0.5})
    classes = [type(module) for module in model.modules()]
    with compiled_layers(model, backend="aot_eager"):
        assert [type(module) for module in model.modules()] == classes


def test_hooks_within_layers_are_off_and_those_of_the_layers_stay() -> None:
    model = tiny_llama(None)
    layer, called = model.model.layers[0], []
    layer.register_forward_hook(lambda *_: called.append("layer"))
    layer.self_attn.register_forward_hook(lambda *_: called.append("attention"))
    with compiled_layers(model, backend="eager"):
        step(model, 2, 7)
    assert called == ["layer"]
    step(model, 2, 7)
    assert called == ["layer", "attention", "layer"]


def test_the_model_is_restored_after_an_error() -> None:
    model = tiny_llama({})
    classes = [type(module) for module in model.modules()]

    def stop() -> None:
        with compiled_layers(model, backend="aot_eager"):
            assert [type(module) for module in model.modules()] != classes
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert [type(module) for module in model.modules()] == classes
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_bfloat16_base_trains_float32_adapters() -> None:
    model = tiny_llama({}, torch.bfloat16)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
    stock = step(model, 4, 9)
    with compiled_layers(model, backend="aot_eager"):
        found = step(model, 4, 9)
    assert {name: value.dtype for name, value in found.items()} == {name: value.dtype for name, value in stock.items()}
    one, other = (torch.cat([value.flatten().float() for value in each.values()]) for each in (found, stock))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.98


def test_a_missing_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"needs a C\+\+ compiler"), compiled_layers(tiny_llama(None)):
        pass

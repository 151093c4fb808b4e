"""The arithmetic of a training's memory is that of a small model which is really trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.finetune import train
from llama2vec.finetune.train import held_cells
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import Backbone, decoder
from llama2vec.model.source import ModelSource
from llama2vec.training import memory
from llama2vec.training.memory import ModelShape, TrainingMemory, shape_of, training_memory, usable_memory
from llama2vec.training.settings import OptimizerSettings

LLAMA_7B = ModelShape(6_738_415_616, 6_476_267_520, 32 * (4 * 8192 + 3 * 15_104), 32, 4096, 32_000)


def measured(model: Any, ids: torch.Tensor) -> TrainingMemory:
    """Take one step and add up the bytes of everything that it holds."""
    weights = {weight.data_ptr(): weight.nbytes for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state.square().mean()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    loss.backward()
    gradients = sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in states if value.dim())
    return TrainingMemory(sum(weights.values()), gradients, moments, sum(kept.values()))


@pytest.mark.parametrize("rank", [0, 4])
def test_a_small_models_bytes_are_those_of_the_arithmetic(rank: int, make_model: Callable[..., Any]) -> None:
    model = make_model("llama", hidden_size=64, intermediate_size=192, num_hidden_layers=4).train()
    shape = shape_of(model)
    settings = ModelSettings(dtype="float32", lora=LoraSettings(rank=rank))
    if rank:
        model = add_lora(Backbone(model, None, ModelSource("tiny", "tiny")), settings.lora, [], 0)
    found = measured(model, torch.arange(128).reshape(4, 32) % 100)
    expected = training_memory(shape, settings, OptimizerSettings(), cells=128, itemsize=4, processes=1)
    assert found.weights == expected.weights
    # The head, which this loss does not read, has neither.
    head = 0 if rank else shape.vocabulary * shape.width * 4
    assert found.gradients == expected.gradients - head
    assert found.optimizer == expected.optimizer - 2 * head
    assert expected.activations / 2 < found.activations < 2 * expected.activations


MIXTURES = [(8, 2), (64, 4), (128, 8)]


def mixture(experts: int, chosen: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen3_moe", hidden_size=64, intermediate_size=192, moe_intermediate_size=24, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=experts, num_experts_per_tok=chosen,
        vocab_size=120, decoder_sparse_step=1,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("experts", "chosen"), MIXTURES)
def test_activations_are_those_of_the_experts_that_a_token_passes(experts: int, chosen: int) -> None:
    model = mixture(experts, chosen).train()
    shape, settings = shape_of(model), ModelSettings(dtype="float32", lora=LoraSettings(rank=4))
    of_experts = 4 * experts * 3 * 24 * 64
    assert shape.idle == of_experts * (experts - chosen) // experts
    assert shape.experts == 4 * chosen
    trained = add_lora(Backbone(model, None, ModelSource("tiny", "tiny")), settings.lora, [], 0)
    found = measured(trained, torch.arange(512).reshape(16, 32) % 100)
    expected = training_memory(shape, settings, OptimizerSettings(), cells=512, itemsize=4, processes=1)
    assert expected.activations / 2 < found.activations < 2 * expected.activations


def test_experts_in_one_tensor_stay_in_16_bits() -> None:
    model = mixture(64, 4)
    shape = shape_of(model)
    linear = sum(module.weight.numel() for module in model.base_model.modules() if isinstance(module, torch.nn.Linear))
    assert shape.unquantized == shape.body - linear > 4 * 64 * 3 * 24 * 64
    nf4 = ModelSettings(lora=LoraSettings(rank=16), quantization="nf4")
    found = training_memory(shape, nf4, OptimizerSettings(), cells=0, itemsize=2, processes=1)
    adapters = 16 * shape.linear_width * 4
    assert found.weights - adapters == pytest.approx((shape.parameters - linear) * 2 + linear * 0.516, rel=1e-3)


def test_convolutions_are_no_experts() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.fidelity.architectures import IDS, KINDS, USUAL

    sizes = {**USUAL, **KINDS["jamba"], **IDS}
    with torch.device("meta"):
        shape = shape_of(AutoModelForCausalLM.from_config(AutoConfig.for_model("jamba", **sizes)))
    assert shape.idle == 4 * 3 * 48 * 32 // 2  # One layer of four experts, of which a token passes two
    assert shape.experts == 2


def test_shares_of_eight_processes_and_four_bits_fit_where_the_recipes_say() -> None:
    full = ModelSettings(lora=LoraSettings(rank=0), gradient_checkpointing=True)
    alone, shared, offloaded = (
        training_memory(LLAMA_7B, full, settings, cells=8 * 1024, itemsize=2, processes=8)
        for settings in (
            OptimizerSettings(), OptimizerSettings(sharding="fsdp"), OptimizerSettings(sharding="fsdp", offload=True),
        )
    )  # fmt: skip
    assert alone.total > 100 * 2**30
    assert 13 * 2**30 < shared.total < 40 * 2**30
    assert offloaded.optimizer == 0
    assert offloaded.weights + offloaded.gradients < 5 * 2**30
    quantized = ModelSettings(lora=LoraSettings(rank=16), gradient_checkpointing=True, quantization="nf4")
    found = training_memory(LLAMA_7B, quantized, OptimizerSettings(), cells=4 * 1024, itemsize=2, processes=1)
    assert 3.5 * 2**30 < found.weights < 4.5 * 2**30
    assert found.total < 20 * 2**30
    assert str(found).startswith("weights ")


def test_a_containers_limit_counts_where_it_is_the_smaller_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER_LIMIT", limit)
    machine = usable_memory()
    assert machine > 2**28
    for text, expected in (("max\n", machine), (f"{2**27}\n", 2**27), (f"{2**60}\n", machine)):
        limit.write_text(text)
        assert usable_memory() == expected


def test_activations_get_a_quarter_of_the_memory_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "usable_memory", lambda: 16 * 2**30)
    of_cell = training_memory(
        LLAMA_7B, ModelSettings(), OptimizerSettings(), cells=1, itemsize=2, processes=1
    ).activations  # fmt: skip
    small = LLAMA_7B._replace(layers=1, body=LLAMA_7B.body // 32)
    held = held_cells(0, "cpu", small, 2)
    assert 0.99 * 4 * 2**30 < held * of_cell / 32 <= 4 * 2**30
    assert held_cells(0, "cpu", small, 2, processes=2) == held // 2
    assert held_cells(0, "cpu", LLAMA_7B, 4) == 2048  # The least, whatever it takes
    assert held_cells(0, "cpu", None, 2) == 2048
    assert held_cells(300, "cpu", small, 2) == 300
    assert held_cells(0, "cuda", small, 2) == 16384

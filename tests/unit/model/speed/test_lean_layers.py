"""Layers that keep less for the backward pass give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import LoraSettings, ModelSettings, load_config
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import decoder, load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.speed.lean_layers import fuse_lora, keep_less

IDS = torch.arange(2 * 9).reshape(2, 9) % 60 + 3


def gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model: Any) -> int:
    """Bytes that autograd keeps for the backward pass, every storage once, weights not counted."""
    storages: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = decoder(model)(input_ids=IDS, use_cache=False).last_hidden_state
    total = sum(storages.values())
    hidden.sum().backward()
    return total


@pytest.fixture(params=["full", "lora"])
def trained(request: pytest.FixtureRequest, llama_folder: Path) -> Any:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32"))
    if request.param == "full":
        return backbone.model.train()
    model = add_lora(backbone, LoraSettings(rank=4), [], 0).train()
    with torch.no_grad():
        # A second matrix of zeros would hide errors in the first one's gradient.
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    return model


def test_loss_and_every_gradient_are_those_of_the_stock_layers(trained: Any) -> None:
    loss, expected = gradients(trained)
    assert keep_less(trained)
    lean_loss, found = gradients(trained)
    assert lean_loss == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-6, rtol=1e-4, err_msg=name)


def test_less_is_kept_for_the_backward_pass(trained: Any) -> None:
    before = kept_bytes(trained)
    keep_less(trained)
    assert kept_bytes(trained) < 0.85 * before


def test_restoring_gives_the_stock_layers_back_bit_for_bit(trained: Any) -> None:
    loss, expected = gradients(trained)
    for module in keep_less(trained):
        del module.forward
    same_loss, found = gradients(trained)
    assert same_loss == loss
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_an_architecture_keeps_its_meaning_whatever_its_layers_are(
    architecture: str, make_model: Callable[..., Any]
) -> None:
    model = make_model(architecture).eval()  # no dropout
    loss, expected = gradients(model)
    keep_less(model)
    lean_loss, found = gradients(model)
    assert lean_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-5, rtol=1e-3, err_msg=name)


def test_in_bfloat16_the_lean_layers_stay_close(llama_folder: Path) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="bfloat16"))
    model = add_lora(backbone, LoraSettings(rank=4), [], 0).train()
    loss, expected = gradients(model)
    assert keep_less(model)
    lean_loss, found = gradients(model)
    assert lean_loss == pytest.approx(loss, rel=1e-2)
    for name, gradient in expected.items():
        assert torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.98 or gradient.norm() == 0


def test_an_adapted_encoder_computes_what_its_saved_copy_does(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    from llama2vec.adapt.stage import adapt_model

    sets = [f'model.name="{llama_folder}"', f'text.corpus="{corpus_file}"', "optimizer.steps=2"]
    sets += ["optimizer.batch_size=2", "text.max_words=12", "text.min_words=4", "model.lora.rank=2"]
    encoder = adapt_model(load_config(AdaptConfig, None, sets), tmp_path / "out")
    texts = ["Llamas hum.", "Alpacas graze."]
    np.testing.assert_array_equal(encoder.encode_passages(texts), Encoder.load(tmp_path / "out").encode_passages(texts))


def test_what_a_lean_block_gives_may_be_changed_in_place(trained: Any) -> None:
    # Gemma 3n scales a projection's output in place.
    for module in trained.modules():
        if hasattr(module, "down_proj"):
            module.register_forward_hook(lambda _, __, out: out.mul_(2.0))
    loss, expected = gradients(trained)
    assert [*keep_less(trained), *fuse_lora(trained)]
    lean_loss, found = gradients(trained)
    assert lean_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-5, rtol=1e-3, err_msg=name)

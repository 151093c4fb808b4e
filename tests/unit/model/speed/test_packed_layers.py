"""Packed products and decoders give what the model's own layers give; a model of another plan is left to itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama2vec.config import ModelSettings
from llama2vec.model.backbone import decoder, load_backbone
from llama2vec.model.pooling import last_hidden_states
from llama2vec.model.speed import packed_layers
from llama2vec.model.speed.packed_layers import decoder_parts, packed_products, plain_decoder

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="PyTorch multiplies packed bfloat16 from AVX-512 on"
)


def loaded(folder: Path) -> Any:
    return load_backbone(ModelSettings(name=str(folder), dtype="bfloat16", device="cpu")).model


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True}),
        ("mistral", {}),
        ("llama", {"head_dim": 16, "num_hidden_layers": 3}),
    ],
)
def test_a_decoder_of_the_plan_gives_the_model_s_states_for_rows_of_any_length(
    save_model: Callable[..., Path], tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    model = loaded(save_model(tmp_path, kind, **changes))
    found = plain_decoder(model, 40)
    assert found is not None
    for rows, columns in ((1, 1), (1, 7), (3, 40)):
        ids = torch.randint(0, 50, (rows, columns), generator=torch.Generator().manual_seed(columns))
        for layers in (1, 2):
            states = found.states(ids, layers)
            assert len(states) == layers
            for one, other in zip(states, last_hidden_states(decoder(model), ids, layers), strict=True):
                assert torch.cosine_similarity(one.float(), other.float(), dim=-1).min() > 0.999
                torch.testing.assert_close(one.float().norm(dim=-1), other.float().norm(dim=-1), rtol=2e-2, atol=0)


def test_models_that_differ_from_the_plan_are_told_apart(
    save_model: Callable[..., Path], tmp_path: Path, llama_folder: Path
) -> None:
    for kind in ("qwen3", "gemma", "gpt2", "gpt_neox", "mistral_window"):
        assert plain_decoder(loaded(save_model(tmp_path / kind, kind)), 40) is None
    # The same parts and other arithmetic: found by what the layers give.
    assert plain_decoder(loaded(save_model(tmp_path / "gelu", "llama", hidden_act="gelu")), 40) is None
    model = loaded(llama_folder)
    model.model.layers[1].self_attn.scaling *= 2
    assert plain_decoder(model, 40) is not None  # The scale is read from the layer.
    changed = model.model.layers[1].register_forward_hook(lambda _, given, returned: returned + given[0])
    assert plain_decoder(model, 40) is None
    changed.remove()
    # What is not a plain norm is called as it is.
    model.model.norm.register_forward_hook(lambda _, given, returned: returned.flip(-1))
    ids, found = torch.arange(1, 10)[None], plain_decoder(model, 40)
    assert found is not None
    with torch.inference_mode():
        (state,), (other,) = found.states(ids, 1), last_hidden_states(decoder(model), ids, 1)
    assert torch.cosine_similarity(state.float(), other.float(), dim=-1).min() > 0.999
    assert plain_decoder(loaded(llama_folder), 1 << 20) is None  # More than its positions


@torch.inference_mode()
def test_every_plain_product_of_any_model_is_packed(save_model: Callable[..., Path], tmp_path: Path) -> None:
    model = loaded(save_model(tmp_path, "qwen3"))
    found = packed_products(model)
    assert len(found) == 7 * model.config.num_hidden_layers
    for module, product in found:
        x = torch.randn(5, module.in_features).bfloat16()
        torch.testing.assert_close(product(x), module(x), rtol=2e-2, atol=2e-2)
    assert packed_products(model.float()) == []


def test_the_parts_of_a_decoder_are_its_tensors_and_none_where_a_norm_is_no_plain_one(llama_folder: Path) -> None:
    model = loaded(llama_folder)
    parts = decoder_parts(model, 40)
    assert parts is not None
    tensors, facts = parts
    layer = model.model.layers[1]
    joined = torch.cat([getattr(layer.self_attn, name).weight for name in ("q_proj", "k_proj", "v_proj")])
    assert torch.equal(tensors["1.attention_in"], joined)
    assert torch.equal(tensors["1.second_norm"], layer.post_attention_layernorm.weight)
    assert len(facts) == len(model.model.layers) + 1
    model.model.norm.register_forward_hook(lambda _, given, returned: returned.flip(-1))
    assert decoder_parts(model, 40) is None


def test_a_single_position_may_round_further_but_not_half_of_them() -> None:
    expected = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))
    odd = expected.clone()
    odd[0, 3] *= 1.05
    assert packed_layers._alike(odd, expected, packed_layers._ROOM_OF_ONE)
    assert not packed_layers._alike(odd, expected)
    assert not packed_layers._alike(expected * 1.03, expected, packed_layers._ROOM_OF_ONE)
    odd[0, 3] *= 1.1
    assert not packed_layers._alike(odd, expected, packed_layers._ROOM_OF_ONE)

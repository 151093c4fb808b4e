"""The files of a compact encoder's difference, and the weights that they and an LLM make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama2vec.errors import ModelError
from llama2vec.model.difference import adapter_key, adapter_scale, merge_weights


def test_an_adapter_says_how_its_product_is_scaled(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    assert adapter_scale(tmp_path) == 2.0
    (tmp_path / "adapter_config.json").write_text('{"r": 0, "lora_alpha": 8}')
    with pytest.raises(ModelError, match=r"adapter_config\.json: says no rank and alpha; restore it"):
        adapter_scale(tmp_path)


def test_the_sum_has_the_lowest_layers_the_product_and_whole_norms_in_float16(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1)]
    base, small, merged = (tmp_path / name for name in ("base", "small", "merged"))
    for folder in (base, small, merged):
        folder.mkdir()
    save_file(
        {**{name: torch.ones(2, 3) for name in names}, "model.norm.weight": torch.ones(3)}, base / "a.safetensors"
    )
    sides = {adapter_key(names[0], "A"): torch.ones(1, 3), adapter_key(names[0], "B"): torch.ones(2, 1)}
    save_file({**sides, "model.norm.weight": torch.full((3,), 5.0)}, small / "adapter_model.safetensors")
    (small / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 2}')
    merge_weights(small, base, merged, layers=1)
    found = load_file(merged / "a.safetensors")
    assert {name: weight.unique().tolist() for name, weight in found.items()} == {
        names[0]: [3.0], "model.norm.weight": [5.0],
    }  # fmt: skip
    assert {weight.dtype for weight in found.values()} == {torch.float16}
    (base / "a.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lora_A\.weight has no counterpart in .*base; name the LLM it was made from"):
        merge_weights(small, base, merged, layers=1)

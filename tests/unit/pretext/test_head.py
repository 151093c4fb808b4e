"""What the output head does with hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.pretext.head import has_plain_head, logit_distance, tolerance


def test_the_tolerance_follows_the_number_format(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    assert tolerance(model) == 1e-4
    # Two layers round twice each: sqrt(4) roundings of 2 to the power of -8, and twice that is allowed.
    assert tolerance(model.to(torch.bfloat16)) == 4 * 2**-8
    assert tolerance(model.to(torch.float16)) == 4 * 2**-11


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gemma"])
def test_a_head_is_plain_if_its_logits_are_a_product_alone(kind: str, make_model: Callable[..., Any]) -> None:
    model = make_model(kind)
    assert has_plain_head(model)
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: output.tanh())
    assert not has_plain_head(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_another_format_than_the_heads_are_cast(
    dtype: torch.dtype, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    # Mamba keeps its last states in float32 whatever the format of its weights.
    mamba = AutoModelForCausalLM.from_pretrained(save_tiny("mamba", tmp_path), dtype=dtype)
    assert mamba(torch.arange(4)[None], output_hidden_states=True).hidden_states[-1].dtype == torch.float32
    for model in (mamba, make_model("llama").to(dtype)):
        assert has_plain_head(model)


def test_what_all_tokens_share_is_no_distance() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 9)
    assert logit_distance(logits + 3.0, logits) < 1e-6
    assert logit_distance(2 * logits, logits) == pytest.approx(1.0, rel=1e-5)

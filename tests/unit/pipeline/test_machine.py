"""A model is measured by its config, a machine by a matrix product."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llama2vec.pipeline.machine import measured_rate, model_shape


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_from_the_config_alone(
    llama_folder: Path, tied_llama_folder: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tied_llama_folder if tied else llama_folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loads weights"))
    shape = model_shape(str(folder))
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    tables = 120 * 32 * (1 if tied else 2)
    assert (shape.body, shape.layers, shape.width) == (shape.parameters - tables, 2, 32)
    # q and o: 32 to 32; k and v: 32 to 16; three of the MLP: 32 to 48, or back.
    assert shape.linear_width == 2 * (2 * 64 + 2 * 48 + 3 * 80)


def test_the_rate_is_that_of_a_real_matrix_product() -> None:
    assert 1e8 < measured_rate(torch.float32, torch.device("cpu")) < 1e14

"""Device and number format: what is asked for, or what suits the machine."""

from __future__ import annotations

import pytest
import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError
from llama2vec.model import device as device_module
from llama2vec.model.device import choose_device, choose_dtype, dtype_name

CPU = torch.device("cpu")


def test_the_number_format_of_a_cpu_is_bfloat16_only_where_it_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device_module, "cpu_has_bfloat16", lambda native=native: native)
        assert choose_dtype("auto", CPU) == expected
    assert choose_dtype("float16", CPU) == torch.float16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", CPU) == torch.float32


def test_the_cpus_own_capabilities_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    device_module.cpu_has_bfloat16.cache_clear()
    try:
        for capabilities, expected in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx": False}, False)):
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
            assert device_module.cpu_has_bfloat16() is expected
            device_module.cpu_has_bfloat16.cache_clear()
    finally:
        device_module.cpu_has_bfloat16.cache_clear()


def test_a_device_that_is_asked_for_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("device", ["banana", "meta", "cuda:99"])
def test_a_device_that_this_machine_lacks_is_one_line(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device {device}: not usable here"):
        choose_device(device)


def test_the_name_of_a_number_format_is_that_in_which_a_model_computes() -> None:
    assert dtype_name(ModelSettings(name="any", device="cpu", dtype="float16")) == "float16"

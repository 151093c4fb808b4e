"""Where a model runs, and in which number format."""

from __future__ import annotations

import functools

import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError, one_line


def choose_device(device: str = "auto") -> torch.device:
    """Return the device that a setting means; ``auto`` is CUDA on a machine with a GPU, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error, 80)
        raise ConfigError(f"device {device}: not usable here ({reason}); choose auto, cpu, cuda or cuda:0") from None
    return found


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number format that a setting means; ``auto`` is bfloat16 on hardware that multiplies it natively.

    On a CPU without AVX512-BF16 or AMX bfloat16 is emulated: about three times slower than float32.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def dtype_name(settings: ModelSettings) -> str:
    """Return the name of the number format in which a model computes that is loaded so, such as ``bfloat16``."""
    return str(choose_dtype(settings.dtype, choose_device(settings.device))).removeprefix("torch.")


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 natively."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx", "bf16", "sve_bf16"))

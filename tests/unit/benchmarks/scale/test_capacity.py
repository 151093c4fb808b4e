"""The arithmetic of large corpora, against sums by hand."""

from __future__ import annotations

import pytest


def test_the_arithmetic_is_that_of_its_inputs() -> None:
    from benchmarks.scale.capacity import Inputs, estimate

    kinds = {"faiss-int8": 300.0, "faiss-binary": 400.0}
    inputs = Inputs(100.0, 160, kinds, dict.fromkeys(kinds, 10.0), 1e-9, gpus=4, cores=10, gpu_hour=2.0)
    found = estimate(10_000_000, 64, inputs)
    assert found["gpu_hours"] == pytest.approx(10_000_000 / 100 / 3600)
    assert found["encoding_hours"] * 4 == pytest.approx(found["gpu_hours"])
    assert found["encoding"] == pytest.approx(2 * found["gpu_hours"])
    assert (found["float16_gb"], found["int8_memory_gb"], found["binary_memory_gb"]) == (1.28, 0.74, 0.18)
    # At the size that was measured, an index takes what it took.
    assert found["int8_core_hours"] == pytest.approx(300 / 3600)
    assert found["exact_core_seconds"] == pytest.approx(1.28)
    larger = estimate(40_000_000, 128, inputs, tokens=80)
    assert larger["gpu_hours"] == pytest.approx(2 * found["gpu_hours"])
    assert larger["int8_core_hours"] == pytest.approx(16 * found["int8_core_hours"])


def test_parts_make_the_build_cheaper() -> None:
    from benchmarks.scale.capacity import Inputs, estimate

    kinds = {"faiss-int8": 300.0, "faiss-binary": 400.0}
    whole = Inputs(100.0, 160, kinds, dict.fromkeys(kinds, 10.0), 1e-9)
    parts = Inputs(100.0, 160, kinds, dict.fromkeys(kinds, 10.0), 1e-9, parts=4)
    one, four = estimate(10**9, 4096, whole), estimate(10**9, 4096, parts)
    assert four["binary_core_hours"] == pytest.approx(one["binary_core_hours"] / 2)
    assert one["sample_gb"] == pytest.approx(64 * 126_491 * 4096 * 4 / 1e9, rel=1e-4)
    assert four["binary_memory_gb"] == one["binary_memory_gb"]

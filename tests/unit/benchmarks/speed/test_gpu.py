"""The measurements for a GPU run on a tiny model on the CPU, and write down what they are for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


def test_every_measurement_writes_tokens_a_second_and_the_limit_skips_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.speed import gpu

    def run(*more: str) -> dict[str, dict[str, float]]:
        output = tmp_path / "gpu.json"
        arguments = ["--output", str(output), "--shape", "tiny", "--device", "cpu", "--seconds", "0.01", *more]
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
        gpu.main()
        return json.loads(output.read_text(encoding="utf-8"))

    found = run("--adapt-length", "16", "--adapt-batch", "4", "--only", "adapt", "adapt-full", "finetune", "encode")
    for name in ("adapt", "adapt-full", "finetune", "encode"):
        assert found[name]["tokens_per_second"] > 0, found[name]
    assert found["adapt"]["steps"] >= 3
    assert "skipped" in run("--only", "encode", "--limit", "-1")["encode"]


def test_exact_search_in_blocks_finds_what_one_product_finds() -> None:
    import torch

    from benchmarks.speed import gpu

    torch.manual_seed(0)
    vectors, queries = torch.randn(131_072 + 500, 8), torch.randn(3, 8)
    scores, rows = gpu.nearest(queries, vectors, 5)
    expected = (queries @ vectors.T).topk(5)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(scores, expected.values)

"""``llama2vec export``, and ``verify --backend onnx`` on what it wrote."""

from __future__ import annotations

from pathlib import Path

from running import CommandLine


def test_it_says_how_near_the_export_is(command_line: CommandLine, exported: Path) -> None:
    done = command_line("export", exported.parent / "encoder", "-o", exported)
    assert done.code == 0, done.err
    assert f"Saved {exported} [0." in done.out
    assert f"at least 1.00000; check more texts with `llama2vec verify {exported} --backend onnx`" in done.out


def test_verify_passes_and_only_compares(command_line: CommandLine, exported: Path) -> None:
    done = command_line("verify", exported, "--backend", "onnx")
    assert done.code == 0, done.err
    assert f"PASS: onnx gives the vectors of {exported.parent / 'encoder'}" in done.out
    refused = command_line.refused("verify", exported, "--backend", "onnx", "--write")
    assert "--backend onnx only compares; drop --write" in refused
    assert "has a number format of its own" in command_line.refused(
        "verify", exported, "--backend", "onnx", "--dtype", "float16"
    )


def test_another_quantization_is_refused(command_line: CommandLine, exported: Path, tmp_path: Path) -> None:
    refused = command_line.refused("export", exported, "-o", tmp_path / "out", "--quantize", "int4")
    assert "--quantize int4: unknown; choose from none, int8" in refused

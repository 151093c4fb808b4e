"""``llama2vec compact``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders import encoder_for
from running import CommandLine


def test_it_says_what_it_made_and_the_folder_loads(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    encoder = encoder_for(llama_folder)
    with torch.no_grad():
        encoder.backbone.model.model.layers[0].mlp.up_proj.weight += 0.3
    encoder.save(tmp_path / "tuned")
    done = command_line("compact", tmp_path / "tuned", "-o", tmp_path / "small", "--base", llama_folder)
    assert done.code == 0, done.err
    assert f"Saved {tmp_path / 'small'} [0.0 MB, rank 16], a difference from {llama_folder}: 100.00% of" in done.out
    again = command_line("compact", tmp_path / "tuned", "-o", tmp_path / "small", "--base", llama_folder)
    assert again.out == done.out.replace("Saved ", "").replace(" [0.0 MB", " is already done [0.0 MB")
    assert encoder_for(tmp_path / "small").contract.prompts == encoder.contract.prompts


def test_an_encoder_of_an_unknown_llm_asks_for_it(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path
) -> None:
    encoder_for(llama_folder).save(tmp_path / "tuned")
    refused = command_line.refused("compact", tmp_path / "tuned", "-o", tmp_path / "small")
    assert "does not say which LLM it was trained from; name it with --base" in refused

"""What both training stages do to the process they run in."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.model.backbone import load_backbone
from llama2vec.stage import make_trainable


@pytest.mark.parametrize(("rank", "calls"), [(0, [(-3, 1 << 30), (-1, (1 << 31) - 4097)]), (4, [])])
def test_full_fine_tuning_lets_the_c_library_keep_freed_blocks(
    llama_folder: Any, monkeypatch: pytest.MonkeyPatch, rank: int, calls: list[tuple[int, int]]
) -> None:
    made: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: made.append((option, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    settings = ModelSettings(name=str(llama_folder), dtype="float32", lora=LoraSettings(rank=rank))
    make_trainable(load_backbone(settings), settings, [], 0)
    assert made == calls


@pytest.mark.parametrize("library", [None, SimpleNamespace()])
def test_another_c_library_is_left_alone(llama_folder: Any, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    def load(name: str) -> Any:
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    settings = ModelSettings(name=str(llama_folder), dtype="float32", lora=LoraSettings(rank=0))
    backbone = load_backbone(settings)
    assert make_trainable(backbone, settings, [], 0) is backbone.model

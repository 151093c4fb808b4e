from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_for

from llama2vec.errors import BackendError, ConfigError, ModelNotFoundError
from llama2vec.model.publish.exporting import OnnxExport
from llama2vec.records import Side
from llama2vec.verify.exported import drawn_texts, open_exported
from llama2vec.verify.verification import verify


def test_an_export_gives_the_encoder_s_vectors_of_golden_and_drawn_texts(exported: Path) -> None:
    home, golden, backend = open_exported("onnx", exported)
    assert home == exported.parent / "encoder"
    found = verify(home, golden, backend, device="cpu")
    assert found.passed
    assert found.lines()[0].startswith("6 golden and 18 drawn texts per side, D=32, float32, contract")
    assert max(side.largest_difference or 1 for side in found.sides.values()) < 1e-5


@pytest.mark.parametrize("fault", [lambda rows: np.roll(rows, 1, axis=0), lambda rows: rows * np.nan])
def test_a_fault_in_one_way_of_batching_fails(
    exported: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[np.ndarray], np.ndarray]
) -> None:
    right = OnnxExport.embed_every_way

    def faulty(self: OnnxExport, side: Side, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
        ways = right(self, side, texts)
        return ways | {"padding on the left": fault(ways["padding on the left"])}

    monkeypatch.setattr(OnnxExport, "embed_every_way", faulty)
    home, golden, backend = open_exported("onnx", exported)
    found = verify(home, golden, backend, device="cpu")
    assert not found.passed
    assert found.lines()[-1].startswith("hint") or any("cause" in line for line in found.lines())


def test_an_encoder_that_was_saved_again_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("encoder", "export"):
        shutil.copytree(exported.parent / name, tmp_path / name)
    encoder = encoder_for(tmp_path / "encoder")
    encoder.backbone.model.model.norm.weight.data += 0.1
    encoder.save(tmp_path / "encoder", overwrite=True)
    with pytest.raises(BackendError, match="was saved again after it was exported"):
        open_exported("onnx", tmp_path / "export")


def test_an_encoder_that_is_gone_is_named_with_the_file_that_names_it(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "export")
    with pytest.raises(ModelNotFoundError) as raised:
        open_exported("onnx", tmp_path / "export")
    assert str(raised.value) == (
        f"{tmp_path / 'encoder'}: no such model folder or file; it is the encoder that "
        f"{tmp_path / 'export' / 'export.json'} names: put it back, or export it again"
    )


def test_another_folder_is_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="no export for onnx; give a folder that `llama2vec export --to onnx` wrote"):
        open_exported("onnx", exported.parent / "encoder")


def test_drawn_texts_are_the_same_each_time_and_of_many_lengths() -> None:
    texts = drawn_texts(("one two three", "four"))
    assert texts == drawn_texts(("one two three", "four"))
    lengths = [text.count(" ") + 1 for text in texts]
    assert (lengths[0], lengths[-1]) == (1, 90)
    assert lengths == sorted(lengths)

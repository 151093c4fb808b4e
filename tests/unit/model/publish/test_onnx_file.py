from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_for

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import ModelError
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.prompt import prompted_texts
from llama2vec.model.publish import onnx_file
from llama2vec.model.publish.onnx_file import ONNX_FILE, OnnxModel, quantize_onnx, write_onnx


def gaps(encoder: Encoder, folder: Path, texts: tuple[str, ...]) -> list[float]:
    """Return the largest differences from the encoder: padded right, padded left, and one text alone."""
    prompt, most = encoder.reading("passage")
    rows = prompted_texts(encoder.backbone.tokenizer, texts, encoder.contract.ids, prompt, most)
    expected, model = encoder.encode_passages(texts), OnnxModel(folder / ONNX_FILE)
    found = [model.embed(rows, pad_id=5), model.embed(rows, pad_id=5, left=True)]
    alone = model.embed(rows[-1:], pad_id=5)
    return [float(np.abs(one - expected).max()) for one in found] + [float(np.abs(alone - expected[-1:]).max())]


@pytest.mark.parametrize("kind", ["llama", "gemma", "mistral_window", "gpt2"])
def test_the_graph_gives_the_encoder_s_vectors_with_padding_on_either_side(
    kind: str, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = encoder_for(save_model(tmp_path / "base", kind), None, EncoderSettings(layers=2, passage_max_tokens=90))
    write_onnx(encoder, tmp_path)
    assert max(gaps(encoder, tmp_path, GOLDEN_TEXTS)) < 1e-5


def test_mean_pooling_and_a_row_of_one_token(llama_folder: Path, tmp_path: Path) -> None:
    prompts = PromptSettings(begin="none")
    encoder = encoder_for(llama_folder, prompts, EncoderSettings(pooling="mean", passage_max_tokens=90))
    write_onnx(encoder, tmp_path)
    assert max(gaps(encoder, tmp_path, (*GOLDEN_TEXTS, "r"))) < 1e-5


def test_eight_bit_weights_are_smaller_and_near(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    write_onnx(encoder, tmp_path)
    before = (tmp_path / ONNX_FILE).stat().st_size
    quantize_onnx(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ONNX_FILE]
    assert (tmp_path / ONNX_FILE).stat().st_size < before
    assert 1e-5 < max(gaps(encoder, tmp_path, GOLDEN_TEXTS)) < 0.2


def test_eight_bit_weights_beside_the_graph_are_all_that_remains(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_MOST_INLINE", 0)
    encoder = encoder_for(llama_folder)
    write_onnx(encoder, tmp_path)
    data = tmp_path / f"{ONNX_FILE}.data"
    before = data.stat().st_size
    quantize_onnx(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ONNX_FILE, data.name]
    assert data.stat().st_size < before
    assert 1e-5 < max(gaps(encoder, tmp_path, GOLDEN_TEXTS)) < 0.2


def test_a_model_whose_vectors_padding_changes_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    encoder.backbone.padding_changes_vectors = True
    with pytest.raises(ModelError, match="must not share a batch"):
        write_onnx(encoder, tmp_path)


def test_a_failure_of_torch_s_exporter_is_one_line(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            raise TypeError("no such\noperator")
        except TypeError as error:
            raise RuntimeError("step 3/3 failed") from error

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ModelError, match=r"torch's exporter cannot write LlamaForCausalLM; use llama2vec serve"):
        write_onnx(encoder_for(llama_folder), tmp_path)


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ONNX_FILE).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="ONNX Runtime cannot open it"):
        OnnxModel(tmp_path / ONNX_FILE)

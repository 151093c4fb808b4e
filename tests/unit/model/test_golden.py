"""Golden vectors: written with every save, and no part of what they are held against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoders import FLOAT32

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, ModelSettings
from llama2vec.errors import GoldenVectorsError
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import GOLDEN_TEXTS, default_tolerance, load_golden, save_golden
from llama2vec.model.source import resolve_model, weights_fingerprint


@pytest.fixture
def saved(llama_folder: Path, tmp_path: Path) -> Path:
    settings = EncoderSettings(query_prompt="next")
    return Encoder.load(llama_folder, settings=FLOAT32, prompts=PROMPT_RECIPES["released"], encoder=settings).save(
        tmp_path / "saved"
    )


def test_a_save_leaves_the_vectors_that_a_loaded_encoder_gives(saved: Path) -> None:
    encoder = Encoder.load(saved, settings=FLOAT32)
    golden = load_golden(saved, encoder.contract_hash)
    assert (golden.texts, golden.dtype, golden.tolerance, golden.dimension) == (GOLDEN_TEXTS, "float32", 1e-5, 32)
    np.testing.assert_allclose(golden.vectors["query"], encoder.encode_queries(golden.texts), atol=1e-6)
    np.testing.assert_allclose(golden.vectors["passage"], encoder.encode_passages(golden.texts), atol=1e-6)
    assert np.abs(golden.vectors["query"] - golden.vectors["passage"]).max() > 0.01


def test_golden_vectors_are_the_same_bytes_again(saved: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(saved, settings=FLOAT32)
    save_golden(encoder.golden(), tmp_path)
    for name in ("golden.json", "golden.npy"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_16_bit_weights_give_16_bit_golden_vectors_and_a_wider_tolerance(llama_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(llama_folder, settings=ModelSettings(dtype="bfloat16", device="cpu"))
    golden = load_golden(encoder.save(tmp_path / "saved"), encoder.contract_hash)
    assert golden.dtype == encoder.contract.dtype == "bfloat16"
    assert golden.tolerance == default_tolerance("bfloat16", 32, 2) > 1e-3


def test_golden_files_change_neither_the_weights_fingerprint_nor_the_contract(saved: Path) -> None:
    contract = json.loads((saved / "llama2vec.json").read_text(encoding="utf-8"))
    assert resolve_model(str(saved)).fingerprint() == contract["weights"]
    for name in ("golden.json", "golden.npy"):
        (saved / name).unlink()
    assert resolve_model(str(saved)).fingerprint() == contract["weights"]
    assert weights_fingerprint(sorted(saved.glob("*.safetensors"))) == contract["weights"]
    assert Encoder.load(saved, settings=FLOAT32).contract_hash == contract["hash"]


def test_no_golden_file_passes_for_weights(saved: Path) -> None:
    # Inference servers read every *.safetensors of a folder that has no index.
    assert [path.name for path in saved.glob("*.safetensors")] == ["model.safetensors"]


def test_saving_over_an_older_model_replaces_its_golden_vectors(
    saved: Path, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    old = json.loads((saved / "golden.json").read_text(encoding="utf-8"))
    other = Encoder.load(save_model(tmp_path / "other", "llama", seed=3), settings=FLOAT32)
    other.save(saved, overwrite=True)
    load_golden(saved, other.contract_hash)
    with pytest.raises(GoldenVectorsError, match="made for contract"):
        load_golden(saved, old["contract"])


def test_the_golden_texts_show_what_they_are_there_for() -> None:
    assert len(set(GOLDEN_TEXTS)) == len(GOLDEN_TEXTS) == 6
    # An empty text is refused by many servers.
    assert all(text.strip() for text in GOLDEN_TEXTS)
    assert any(text != text.strip() and "\n" in text for text in GOLDEN_TEXTS)
    assert any(not text.isascii() for text in GOLDEN_TEXTS)
    assert max(len(text.split()) for text in GOLDEN_TEXTS) > 128 * 0.8
    assert min(len(text.split()) for text in GOLDEN_TEXTS) == 1


def test_missing_golden_vectors_are_not_laid_to_another_program(saved: Path) -> None:
    (saved / "golden.json").unlink()
    with pytest.raises(
        GoldenVectorsError, match=r"no golden\.json: the model was saved before .*or the file was removed"
    ):
        load_golden(saved, "")

"""Saved encoders opened without trusting the code beside them."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.errors import ContractError, MissingDependencyError, ModelError
from llama2vec.integrations.sentence_transformers import check_own_code, load_sentence_transformer
from llama2vec.model.encoder import Encoder
from llama2vec.retrieve.index.exact import shortened


@pytest.fixture
def saved(llama_folder: Path, tmp_path: Path) -> Path:
    settings = EncoderSettings(query_prompt="next")
    return Encoder.load(llama_folder, settings=ModelSettings(dtype="float32"), encoder=settings).save(tmp_path / "a")


def test_our_own_file_needs_no_trust(saved: Path, sentences: list[str]) -> None:
    encoder = Encoder.load(saved, settings=ModelSettings(dtype="float32"))
    model = load_sentence_transformer(saved, device="cpu", truncate_dim=16)
    queries = shortened(encoder.encode_queries(sentences[:5]), 16)
    np.testing.assert_allclose(model.encode_query(sentences[:5]), queries, atol=1e-5, rtol=0)


@pytest.mark.parametrize("trust", [True, False])
def test_shortened_vectors_have_unit_length_wherever_they_are_cut(
    saved: Path, sentences: list[str], trust: bool
) -> None:
    model = load_sentence_transformer(saved, device="cpu", trust_remote_code=trust)
    whole = model.encode_document(sentences[:5])
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    for found in (
        model.encode(sentences[:5], truncate_dim=8),
        model.encode_document(sentences[:5], truncate_dim=8),
        pickle.loads(pickle.dumps(model)).encode(sentences[:5], truncate_dim=8),  # noqa: S301 (our own)
    ):
        np.testing.assert_allclose(found, shortened(whole, 8), atol=1e-5, rtol=0)
    assert len(model.encode(sentences[0], output_value="token_embeddings")) > 1
    model.truncate_dim = 4
    np.testing.assert_allclose(model.encode(sentences[:5]), shortened(whole, 4), atol=1e-5, rtol=0)


def test_code_of_somebody_else_is_not_run(saved: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with (saved / "portable_encoder.py").open("a") as file:
        file.write(f"\nopen({str(trace)!r}, 'w').close()\n")
    with pytest.raises(ContractError, match=r"portable_encoder\.py differs from that of llama2vec"):
        load_sentence_transformer(saved)
    assert not trace.exists()


def test_a_folder_saved_before_there_was_a_module_says_what_to_do(saved: Path, llama_folder: Path) -> None:
    (saved / "portable_encoder.py").unlink()
    for folder in (saved, llama_folder):
        with pytest.raises(ContractError, match=r"portable_encoder\.py is missing; load and save the model again"):
            load_sentence_transformer(folder)


def test_without_sentence_transformers_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"llama2vec\[sentence-transformers\]"):
        load_sentence_transformer(saved)


def test_a_servable_encoder_names_no_code_and_none_is_run(llama_folder: Path, tmp_path: Path) -> None:
    settings = EncoderSettings(servable=True)
    folder = Encoder.load(llama_folder, settings=ModelSettings(dtype="float32"), encoder=settings).save(tmp_path / "b")
    assert not check_own_code(folder)
    trace = tmp_path / "trace"
    (folder / "portable_encoder.py").write_text(f"open({str(trace)!r}, 'w').close()")
    expected = Encoder.load(folder, settings=ModelSettings(dtype="float32")).encode_queries(["river"])
    model = load_sentence_transformer(folder, device="cpu")
    np.testing.assert_allclose(model.encode_query(["river"]), expected, atol=1e-5, rtol=0)
    assert not trace.exists()


@pytest.mark.parametrize("servable", [False, True])
def test_weights_of_another_model_than_the_contracts_are_refused(
    llama_folder: Path, save_model: Callable[..., Path], tmp_path: Path, servable: bool
) -> None:
    encoder = Encoder.load(
        llama_folder, settings=ModelSettings(dtype="float32"), encoder=EncoderSettings(servable=servable)
    )
    folder, other = encoder.save(tmp_path / "a"), save_model(tmp_path / "other", "llama", seed=3)
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ContractError, match=r"the weights are not those that llama2vec\.json was made for"):
        load_sentence_transformer(folder, device="cpu")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ModelError, match="damaged or cut short"):
        load_sentence_transformer(folder, device="cpu")

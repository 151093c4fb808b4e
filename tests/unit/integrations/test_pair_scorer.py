"""Scores of pairs from three kinds of models, and models that score none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import encoder_for
from pair_models import save_cross_encoder, save_sentence_transformer

from llama2vec.errors import MissingDependencyError, ModelError, ModelNotFoundError
from llama2vec.integrations.pair_scorer import (
    CROSS_ENCODER,
    LLAMA2VEC,
    SENTENCE_TRANSFORMERS,
    PairScorer,
)

QUERIES = ["river stone", "castle", "winter"]
PASSAGES = [["The river of the stone.", "A market."], [], ["The river of the stone.", "Copper", "Copper"]]


@pytest.fixture(scope="module")
def cross_encoder(make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(make_tokenizer(), tmp_path_factory.mktemp("cross"))


@pytest.fixture(scope="module")
def sentence_transformer(make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentence_transformer(make_tokenizer(), tmp_path_factory.mktemp("bi"))


def shapes(scorer: PairScorer) -> list[np.ndarray]:
    found = scorer.scores(QUERIES, PASSAGES)
    assert [len(row) for row in found] == [2, 0, 3]
    assert found[2][1] == found[2][2]
    assert scorer.scored == 4
    return found


def test_a_cross_encoder_gives_its_logits(cross_encoder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    scorer = PairScorer(str(cross_encoder), "cpu")
    assert scorer.kind == CROSS_ENCODER
    found = shapes(scorer)
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    with torch.no_grad():
        logit = model(**tokenizer(QUERIES[0], PASSAGES[0][0], return_tensors="pt")).logits.item()
    assert found[0][0] == pytest.approx(logit, abs=1e-5)
    assert not 0 < max(abs(row).max(initial=0) for row in found) < 1e-6


def test_a_sentence_transformer_gives_cosines_under_its_own_prompts(sentence_transformer: Path) -> None:
    from sentence_transformers import SentenceTransformer

    scorer = PairScorer(str(sentence_transformer), "cpu")
    assert scorer.kind == SENTENCE_TRANSFORMERS
    found = shapes(scorer)
    model = SentenceTransformer(str(sentence_transformer), device="cpu")
    query, passage = model.encode_query(QUERIES[2]), model.encode_document(PASSAGES[2][1])
    cosine = query @ passage / np.linalg.norm(query) / np.linalg.norm(passage)
    assert found[2][1] == pytest.approx(cosine, abs=1e-5)
    assert cosine != pytest.approx(model.encode(QUERIES[2], normalize_embeddings=True) @ passage, abs=1e-4)


def test_an_encoder_of_llama2vec_gives_the_cosines_of_its_vectors(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    scorer = PairScorer(str(encoder.save(tmp_path / "model")), "cpu")
    assert scorer.kind == LLAMA2VEC
    found = shapes(scorer)
    expected = encoder.encode_passages(PASSAGES[2]) @ encoder.encode_queries(QUERIES[2])
    np.testing.assert_allclose(found[2], expected, atol=2e-2)  # it may compute in bfloat16


def test_the_fingerprint_is_that_of_the_files_wherever_they_lie(cross_encoder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(cross_encoder, copy)
    (copy / "README.md").write_text("words")
    before = PairScorer(str(cross_encoder)).fingerprint
    assert PairScorer(str(copy)).fingerprint == before
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps"', '"layer_norm_eps_"'))
    assert PairScorer(str(copy)).fingerprint != before


def test_models_that_score_no_pairs_are_named(
    llama_folder: Path, make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="a LlamaForCausalLM scores no pairs; give a cross-encoder"):
        PairScorer(str(llama_folder))
    with pytest.raises(ModelNotFoundError, match="no such model folder"):
        PairScorer("./nowhere")
    with pytest.raises(ModelNotFoundError, match="nobody/nothing"):
        PairScorer("nobody/nothing")
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    with pytest.raises(ModelError, match="a SparseEncoder scores no pairs"):
        PairScorer(str(tmp_path / "sparse"))
    two = save_cross_encoder(make_tokenizer(), tmp_path / "two", labels=2)
    with pytest.raises(ModelError, match=r"gives \[2\] numbers for a pair; one score is needed"):
        PairScorer(str(two), "cpu").scores(["a"], [["b"]])


def test_scores_that_are_not_finite_are_refused(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    broken = save_cross_encoder(make_tokenizer(), tmp_path / "broken", bias=float("nan"))
    with pytest.raises(ModelError, match="a score is not finite"):
        PairScorer(str(broken), "cpu").scores(["a"], [["b"]])


def test_texts_that_are_not_read_to_their_end_are_counted(
    cross_encoder: Path, sentence_transformer: Path, llama_folder: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from llama2vec.config import EncoderSettings

    short = EncoderSettings(passage_max_tokens=60)
    folders = [cross_encoder, sentence_transformer, encoder_for(llama_folder, settings=short).save(tmp_path / "model")]
    long = "river " * 200
    for folder, what in zip(folders, ("2 pairs", "1 passage", "1 passage"), strict=True):
        scorer = PairScorer(str(folder), "cpu")
        for _ in range(2):  # A text that is scored again is no further text.
            scorer.scores(["a", "b"], [[long, "short"], [long]])
        with caplog.at_level("WARNING", "llama2vec"):
            scorer.warn_of_cut_texts()
        assert f"{folder}: reads {scorer._limit('passage')} tokens and left out the end of {what}\n" in caplog.text
        caplog.clear()
        whole = PairScorer(str(folder), "cpu")
        whole.scores(["a"], [["short"]])
        whole.warn_of_cut_texts()
        assert not caplog.text


def test_queries_that_are_not_read_to_their_end_are_counted_apart(
    sentence_transformer: Path, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from llama2vec.config import EncoderSettings

    short = EncoderSettings(query_max_tokens=20, passage_max_tokens=200)
    for folder in (sentence_transformer, encoder_for(llama_folder, settings=short).save(tmp_path / "model")):
        scorer = PairScorer(str(folder), "cpu")
        scorer.scores(["river " * 180, "a"], [["short", "other"], ["short"]])
        caplog.clear()
        scorer.warn_of_cut_texts()
        limit = scorer._limit("query")
        assert caplog.messages == [f"{folder}: reads {limit} tokens and left out the end of 1 query"]
        assert scorer.facts == {"kind": scorer.kind, "pairs": 3, "cut": 0, "cut_queries": 1}


def test_without_sentence_transformers_the_extra_is_named(cross_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"llama2vec\[sentence-transformers\]"):
        PairScorer(str(cross_encoder)).scores(["a"], [["b"]])

"""An encoder under MTEB: a small retrieval task and a small task of sentence pairs, both local."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Run
from llama2vec.score.metrics import evaluate_run

mteb = pytest.importorskip("mteb", reason="mteb is not in the dev extra: it brings 270 MB")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from llama2vec.integrations.mteb import MtebEncoder  # noqa: E402


def metadata(name: str, kind: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name, type=kind, main_score=score, description="A small local task.", reference=None,
        dataset={"path": "local", "revision": "1"}, category="t2t", modalities=["text"], eval_splits=["test"],
        eval_langs=["eng-Latn"], date=None, domains=[], task_subtypes=[], license=None, annotations_creators=None,
        dialect=[], sample_creation=None, bibtex_citation="", is_public=True,
    )  # fmt: skip


PASSAGES = [
    Passage("p0", "The river of the stone bridge.", "Bridge"),
    Passage("p1", "A castle in winter."),
    Passage("p2", "The market of the harbour.", "Market"),
    Passage("p3", "The engine and the letter."),
    Passage("p4", "The painter of the village."),
]
QUERIES = {"q0": "stone bridge", "q1": "winter castle", "q2": "harbour"}
QRELS = {"q0": {"p0": 1}, "q1": {"p1": 1, "p4": 1}, "q2": {"p2": 1}}
PAIRS = [("The river.", "The stone."), ("A castle.", "A castle in winter."), ("The market.", "Engine"), ("x", "The y.")]
GOLD = [1.0, 4.0, 0.5, 2.0]


class SmallRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
    metadata = metadata("SmallRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        corpus = [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in PASSAGES]
        queries = [{"id": key, "text": text} for key, text in QUERIES.items()]
        split = {
            "corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries),
            "relevant_docs": QRELS, "top_ranked": None,
        }  # fmt: skip
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class SmallPairs(AbsTaskSTS):  # type: ignore[misc]
    metadata = metadata("SmallPairs", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        first, second = zip(*PAIRS, strict=True)
        rows = {"sentence1": first, "sentence2": second, "score": GOLD}
        self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
        self.data_loaded = True


@pytest.fixture
def saved(save_model: Callable[..., Path], tmp_path: Path) -> Path:
    settings = EncoderSettings(query_prompt="next", layers=2)
    base = save_model(tmp_path / "base", seed=3)
    return Encoder.load(base, settings=ModelSettings(dtype="float32"), encoder=settings).save(tmp_path / "tiny")


@pytest.fixture
def encoder(saved: Path) -> Encoder:
    return Encoder.load(saved, settings=ModelSettings(dtype="float32"))


def scores(result: Any) -> dict[str, float]:
    return dict(result.task_results[0].scores["test"][0])


@pytest.mark.filterwarnings("ignore")
def test_mteb_scores_a_retrieval_task_as_we_do(encoder: Encoder, saved: Path, tmp_path: Path) -> None:
    found = scores(mteb.evaluate(MtebEncoder(saved, encoder=encoder), SmallRetrieval(), cache=None, co2_tracker=False))
    similar = encoder.encode_queries(list(QUERIES.values())) @ encoder.encode_passages(PASSAGES).T
    run = Run(
        {
            query: {passage.id: float(score) for passage, score in zip(PASSAGES, row, strict=True)}
            for query, row in zip(QUERIES, similar, strict=True)
        }
    )
    ours = evaluate_run(run, QRELS, metrics=["nDCG@3", "nDCG@10", "AP"]).metrics
    assert ours["nDCG@10"] < 1, "a perfect score would hide a wrong prompt"
    assert found["ndcg_at_3"] == pytest.approx(ours["nDCG@3"], abs=1e-4)
    assert found["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=1e-4)
    assert found["map_at_10"] == pytest.approx(ours["AP"], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_mteb_scores_sentence_pairs_as_we_do(encoder: Encoder, saved: Path) -> None:
    found = scores(mteb.evaluate(MtebEncoder(saved, encoder=encoder), SmallPairs(), cache=None, co2_tracker=False))
    first, second = (encoder.encode_passages(side) for side in zip(*PAIRS, strict=True))
    expected = spearmanr((first * second).sum(axis=1), GOLD).statistic
    assert found["cosine_spearman"] == pytest.approx(expected, abs=1e-6)


def test_vectors_are_the_encoders_for_each_kind_of_prompt(encoder: Encoder, saved: Path) -> None:
    wrapped = MtebEncoder(saved, encoder=encoder)
    assert isinstance(wrapped, EncoderProtocol)
    texts = [passage.full_text for passage in PASSAGES] + ["", "river " * 300]
    batches = [{"text": texts[:3]}, {"text": texts[3:]}]
    task = {"task_metadata": SmallPairs.metadata, "hf_split": "test", "hf_subset": "default"}
    passages, queries = encoder.encode_passages(texts), encoder.encode_queries(texts)
    for kind, expected in ((PromptType.query, queries), (PromptType.document, passages), (None, passages)):
        found = wrapped.encode(batches, prompt_type=kind, batch_size=2, **task)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.abs(queries - passages).max() > 1e-3


def test_the_model_describes_itself_and_is_loaded_from_its_description(encoder: Encoder, saved: Path) -> None:
    meta = MtebEncoder(saved).mteb_model_meta
    assert meta is not None
    assert meta.name == "llama2vec/tiny"
    assert meta.revision == encoder.contract_hash
    assert (meta.embed_dim, meta.max_tokens) == (32, encoder.contract.encoder.passage_max_tokens)
    again = meta.load_model(device="cpu")
    assert again.encoder.contract_hash == encoder.contract_hash
    assert again.mteb_model_meta.name == meta.name

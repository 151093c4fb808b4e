"""Why a passage matches a query."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.data.unlabeled import sentences
from llama2vec.explain.explanation import explain, sentence_evidence
from llama2vec.explain.vocabulary import VocabularyView
from llama2vec.model.encoder import Encoder

FLOAT32 = ModelSettings(dtype="float32")
QUERY = "river stone"
PASSAGE = "The river runs under the bridge. The castle has a garden. A merchant sells pepper at the market."


@pytest.fixture(scope="module")
def view(llama_folder: Path) -> VocabularyView:
    return VocabularyView(Encoder.load(llama_folder, settings=FLOAT32))


def test_the_parts_add_up_to_the_scores_of_both_searches(view: VocabularyView) -> None:
    found = explain(view, QUERY, PASSAGE, top=4)
    rows = view.sparse([QUERY], "query"), view.sparse([PASSAGE], "passage")
    assert found.sparse == pytest.approx((rows[0] @ rows[1].T).toarray()[0, 0], abs=1e-6)
    assert found.sparse == pytest.approx(sum(word.contribution for word in found.shared))
    assert found.shared
    assert [word.contribution for word in found.shared] == sorted((w.contribution for w in found.shared), reverse=True)
    vectors = view.encoder.encode_queries([QUERY])[0], view.encoder.encode_passages([PASSAGE])[0]
    assert found.cosine == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert found.evidence == []


def test_the_words_of_both_sides_are_those_of_the_view(view: VocabularyView) -> None:
    found = explain(view, QUERY, PASSAGE, top=4)
    for words, text, side in ((found.query_words, QUERY, "query"), (found.passage_words, PASSAGE, "passage")):
        expected = view.top_words([text], side, 4)[0]  # type: ignore[arg-type]
        assert [word.word for word in words] == [word.word for word in expected]
        assert len(words) == 4


def test_evidence_is_what_the_score_loses_without_the_sentence(view: VocabularyView) -> None:
    evidence = explain(view, QUERY, PASSAGE, evidence=True).evidence
    parts = sentences(PASSAGE)
    assert sorted(item.text for item in evidence) == sorted(parts)
    (query,) = view.encoder.encode_queries([QUERY])
    for item in evidence:
        rest = " ".join(part for part in parts if part != item.text)
        with_it, without = (float(view.encoder.encode_passages([text])[0] @ query) for text in (PASSAGE, rest))
        assert item.drop == pytest.approx(with_it - without, abs=1e-5)
    assert [item.drop for item in evidence] == sorted((item.drop for item in evidence), reverse=True)


def test_a_sentence_beyond_the_limit_of_the_encoder_changes_nothing(llama_folder: Path) -> None:
    short = VocabularyView(Encoder.load(llama_folder, settings=FLOAT32, encoder=EncoderSettings(passage_max_tokens=8)))
    evidence = {item.text: item.drop for item in sentence_evidence(short, QUERY, PASSAGE)}
    assert evidence["A merchant sells pepper at the market."] == pytest.approx(0, abs=1e-5)
    assert np.abs(list(evidence.values())).max() > 1e-3


def test_one_sentence_has_no_evidence(view: VocabularyView) -> None:
    assert sentence_evidence(view, QUERY, "The river runs under the bridge.") == []
    assert sentence_evidence(view, QUERY, "") == []

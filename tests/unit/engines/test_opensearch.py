"""Scores and ids of OpenSearch; `make stacks` holds its client's requests against a stand-in for the server."""

from __future__ import annotations

import pytest

from llama2vec.engines.opensearch import _ANALYZERS, _document_id, _product
from llama2vec.retrieve.lexical import _STEMMERS


@pytest.mark.parametrize("product", [-1.0, -0.25, 0.0, 0.5, 1.0])
def test_a_score_turns_back_into_its_inner_product(product: float) -> None:
    score = product + 1 if product >= 0 else 1 / (1 - product)
    assert _product(score) == pytest.approx(product)


def test_ids_of_documents_have_one_length() -> None:
    assert {len(_document_id(one)) for one in ("", "1", "世" * 1000)} == {64}


def test_languages_are_named_as_stemmers_are() -> None:
    both = _ANALYZERS.keys() & _STEMMERS.keys()
    assert {_ANALYZERS[code] for code in both} == {_STEMMERS[code] for code in both}

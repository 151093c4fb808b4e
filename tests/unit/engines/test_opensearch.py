"""Scores and ids of OpenSearch; `make stacks` holds its client's requests against a stand-in for the server."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llama2vec.engines.engine import ABOUT, About
from llama2vec.engines.opensearch import _ANALYZERS, OpenSearch, _product
from llama2vec.retrieve.index.lexical import _STEMMERS


@pytest.mark.parametrize("product", [-1.0, -0.25, 0.0, 0.5, 1.0])
def test_a_score_turns_back_into_its_inner_product(product: float) -> None:
    score = product + 1 if product >= 0 else 1 / (1 - product)
    assert _product(score) == pytest.approx(product)


def test_languages_are_named_as_stemmers_are() -> None:
    both = _ANALYZERS.keys() & _STEMMERS.keys()
    assert {_ANALYZERS[code] for code in both} == {_STEMMERS[code] for code in both}


def test_what_the_collection_says_of_itself_must_come_within_the_time_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[float] = []

    def asked(*, request_timeout: float, index: str = "") -> dict[str, Any]:
        limits.append(request_timeout)
        about = About(contract_hash="c0ffee", dimension=2).model_dump()
        return {index: {"mappings": {"_meta": {ABOUT: about}}}}

    def client(at: str, *, timeout: float, **options: Any) -> SimpleNamespace:
        limits.append(timeout)
        return SimpleNamespace(info=asked, indices=SimpleNamespace(exists=asked, get_mapping=asked))

    package, errors = ModuleType("opensearchpy"), ModuleType("opensearchpy.exceptions")
    package.OpenSearch, package.helpers = client, None  # type: ignore[attr-defined]
    errors.OpenSearchException = type("OpenSearchException", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opensearchpy", package)
    monkeypatch.setitem(sys.modules, "opensearchpy.exceptions", errors)
    assert OpenSearch("http://host", "texts", token="", timeout=3).about() is not None
    assert limits == [60, 3, 3, 3]

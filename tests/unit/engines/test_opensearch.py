"""Scores and ids of OpenSearch; `make stacks` holds its client's requests against a stand-in for the server."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama2vec.engines.engine import ABOUT, About
from llama2vec.engines.opensearch import _ANALYZERS, OpenSearch, _product
from llama2vec.errors import EngineError
from llama2vec.records import Passage
from llama2vec.retrieve.index.lexical import _STEMMERS


@pytest.mark.parametrize("product", [-1.0, -0.25, 0.0, 0.5, 1.0])
def test_a_score_turns_back_into_its_inner_product(product: float) -> None:
    score = product + 1 if product >= 0 else 1 / (1 - product)
    assert _product(score) == pytest.approx(product)


def test_languages_are_named_as_stemmers_are() -> None:
    both = _ANALYZERS.keys() & _STEMMERS.keys()
    assert {_ANALYZERS[code] for code in both} == {_STEMMERS[code] for code in both}


def engine(client: Any = None, helpers: Any = None) -> OpenSearch:
    made = object.__new__(OpenSearch)
    made.place, made._name, made._client, made._helpers = "the index texts", "texts", client, helpers
    return made


def test_a_field_that_is_too_long_is_named_with_its_bytes() -> None:
    # OpenSearch keeps `fields.summary=…` as one term of at most 32,766 bytes.
    fits = 32_766 - len("fields.summary=")
    assert engine().why_not(Passage("1", "x", fields={"summary": "x" * fits, "year": 2020}), 0) is None
    said = "its field 'summary' has 32,767 bytes with its name, and OpenSearch takes 32,766"
    assert engine().why_not(Passage("1", "x", fields={"summary": "x" * (fits + 1)}), 0) == said
    assert engine().why_not(Passage("1", "x", fields={"summary": "世" * (fits // 3 + 1)}), 0) is not None
    assert "its id has 32,767 bytes" in str(engine().why_not(Passage("x" * 32_767, "x"), 0))


@pytest.mark.parametrize("source", [{}, {"_source": {}}, {"_source": {"id": 7, "digest": "0"}}])
def test_a_document_of_another_program_is_named_and_not_counted(source: dict[str, Any]) -> None:
    ours = {"_id": "k", "_score": 1.5, "_source": {"id": "a", "digest": "d1"}}
    theirs, asked = {"_id": "theirs", "_score": 1.2, **source}, list[Any]()

    def client(*hits: Any) -> Any:
        return SimpleNamespace(
            indices=SimpleNamespace(refresh=lambda index: None),
            msearch=lambda body, index: {"responses": [{"hits": {"hits": list(hits)}}]},
            count=lambda index, body: asked.append(body) or {"count": 1},
        )

    def opened(*hits: Any) -> OpenSearch:
        return engine(client(*hits), SimpleNamespace(scan=lambda *_, **options: iter(hits)))

    vectors = np.ones((1, 2), np.float32)
    assert list(opened(ours).digests()) == [[("a", "d1")]]
    assert opened(ours).search(vectors, 2) == [[("a", 0.5)]]
    said = r"the index texts holds an entry that `llama2vec export` did not write \('theirs'\); remove it there"
    with pytest.raises(EngineError, match=said):
        list(opened(ours, theirs).digests())
    with pytest.raises(EngineError, match=said):
        opened(ours, theirs).search(vectors, 2)
    assert opened().count() == 1
    assert asked == [{"query": {"exists": {"field": "digest"}}}]


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

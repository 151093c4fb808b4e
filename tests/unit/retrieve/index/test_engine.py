"""An engine finds the vectors; texts, filters and BM25 stay with the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_stores import clustered, store_of
from memory_engine import ClientError, MemoryEngine

from llama2vec.engines.opening import Target
from llama2vec.errors import ConfigError, EngineError
from llama2vec.records import Query
from llama2vec.retrieve.export.collection import export_store
from llama2vec.retrieve.index import engine as engine_module
from llama2vec.retrieve.index import exact as exact_module
from llama2vec.retrieve.index.engine import EngineIndex
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.folder import build_index, open_index, search_facts
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.settings import SearchRequest
from llama2vec.retrieve.store.reader import VectorStore, store_sha256

COUNT = 300
TARGET = Target("qdrant", "http://host:6333", "handbook")


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    return store_of(clustered(COUNT, 16), tmp_path / "store")


@pytest.fixture
def engine(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> MemoryEngine:
    engine = MemoryEngine()
    export_store(store, engine)
    monkeypatch.setattr(Target, "open", lambda target, timeout=10.0: engine)
    return engine


@pytest.fixture
def queries() -> npt.NDArray[np.float32]:
    return clustered(20, 16, seed=1)


def same(
    index: EngineIndex, queries: npt.NDArray[np.float32], depth: int, allowed: npt.NDArray[np.int64] | None
) -> bool:
    scores, rows = index.search(queries, depth, allowed)
    exact, wanted = ExactIndex(index.store).search(queries, depth, allowed)
    return np.array_equal(rows, wanted) and bool(np.allclose(scores, exact, atol=1e-6))


def test_an_engine_gives_what_exact_search_gives(
    store: VectorStore, engine: MemoryEngine, queries: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_module, "_FEW_ROWS", 0)
    index = EngineIndex(store, engine, store_sha256(store))
    assert same(index, queries, 10, None)
    assert same(index, queries, 10, np.arange(0, COUNT, 2))
    assert same(index, queries, 10, np.arange(0, COUNT, 20))
    assert same(index, queries, 10**6, None)
    assert index.search(queries[:0], 10)[1].shape == (0, 10)
    assert index.search(queries, 10, np.array([], dtype=np.int64))[1].shape == (20, 0)


def test_an_engine_is_asked_for_a_limited_number_of_queries_and_hits_at_once(
    store: VectorStore, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = EngineIndex(store, engine, store_sha256(store))
    assert same(index, clustered(600, 16, seed=1), 10, None)
    assert engine.asked == [256, 256, 88]
    monkeypatch.setattr(engine_module, "_MOST_HITS", 250)
    assert same(index, clustered(5, 16, seed=1), 100, None)
    assert same(index, clustered(2, 16, seed=1), COUNT, None)
    assert engine.asked[3:] == [2, 2, 1, 1, 1]


def test_an_engine_that_gives_fewer_than_asked_is_completed(
    store: VectorStore, engine: MemoryEngine, queries: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = engine.search
    monkeypatch.setattr(engine, "search", lambda vectors, depth: search(vectors, min(depth, 100)))
    assert same(EngineIndex(store, engine, store_sha256(store)), queries, 150, None)


def test_very_deep_searches_and_few_rows_do_not_ask_the_engine(
    store: VectorStore, engine: MemoryEngine, queries: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = EngineIndex(store, engine, store_sha256(store))
    monkeypatch.setattr(engine, "search", None)
    assert same(index, queries, 10, np.arange(0, COUNT, 2))
    monkeypatch.setattr(engine_module, "_DEEPEST", 50)
    assert same(index, queries, 60, None)


def test_a_collection_that_changes_is_noticed_by_the_next_search(
    store: VectorStore, engine: MemoryEngine, queries: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index = EngineIndex(store, engine, store_sha256(store))
    other = store_of(clustered(COUNT, 16, seed=2), tmp_path / "other")
    export_store(other, engine, replace=True)
    with pytest.raises(EngineError, match=r"holds another state of the passages; export .*store to it again"):
        index.search(queries, 10)
    engine.content = None
    with pytest.raises(EngineError, match="does not exist; export"):
        EngineIndex(store, engine, store_sha256(store))


def test_an_engine_that_fails_or_lies_is_one_line(
    store: VectorStore, engine: MemoryEngine, queries: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = EngineIndex(store, engine, store_sha256(store))

    def fails(*arguments: object) -> None:
        raise ClientError("gone away")

    monkeypatch.setattr(engine, "search", lambda vectors, depth: [[("unheard", 1.0)]] * len(vectors))
    with pytest.raises(EngineError, match=r"holds 'unheard', which .*store lacks"):
        index.search(queries, 10)
    monkeypatch.setattr(engine, "search", fails)
    with pytest.raises(EngineError, match="the collection in memory: gone away"):
        index.search(queries, 10)


def test_an_index_keeps_its_engine_and_takes_bm25(store: VectorStore, engine: MemoryEngine, tmp_path: Path) -> None:
    request, folder = SearchRequest(engine=TARGET), tmp_path / "index"
    assert build_index(store, folder, search=request) == ["engine"]
    assert build_index(store, folder, search=request) == []
    assert build_index(store, folder, bm25="en") == ["bm25"]
    index = open_index(folder)
    assert isinstance(index, EngineIndex)
    assert same(index, clustered(5, 16, seed=3), 10, None)
    assert build_index(store, folder, kind="exact", overwrite=True) == ["exact"]
    assert isinstance(open_index(folder), ExactIndex)


def test_what_makes_no_sense_together_is_refused(store: VectorStore, engine: MemoryEngine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--engine: the engine has an index of its own; leave out --kind"):
        build_index(store, tmp_path / "index", kind="faiss-flat", search=SearchRequest(engine=TARGET))
    engine.content = None
    with pytest.raises(EngineError, match="does not exist"):
        build_index(store, tmp_path / "index", search=SearchRequest(engine=TARGET))
    assert not (tmp_path / "index").exists()


def test_an_engine_that_lets_in_one_client_serves_on_when_its_index_is_replaced(
    store: VectorStore, engine: MemoryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "open", lambda target, timeout=10.0: engine.opened())
    engine.is_exclusive = True
    build_index(store, tmp_path / "index", search=SearchRequest(engine=TARGET))
    retriever = Retriever.open(tmp_path / "index", QueryTableStandIn())
    assert retriever.modes == ("dense",)
    # Adding BM25 does not open the collection, so another program can do it.
    assert build_index(store, tmp_path / "index", bm25="en") == ["bm25"]
    assert search_facts(tmp_path / "index") == ""
    assert len(retriever.hits("text", depth=3)) == 3
    assert retriever.modes == ("hybrid", "dense", "bm25")
    assert isinstance(retriever.index, EngineIndex)
    assert len(retriever.hits("text", depth=3)) == 3
    assert engine.asked


class QueryTableStandIn:
    """Reads every query as the same vector."""

    contract_hash = "c0ffee"

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return clustered(len(queries), 16, seed=1)

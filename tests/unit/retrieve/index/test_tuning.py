"""Settings that reach a recall, and no more than that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_stores import clustered, store_of

from llama2vec.errors import ConfigError, OutputExistsError, StoreError
from llama2vec.retrieve.index import faiss as faiss_module
from llama2vec.retrieve.index import tuning
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.faiss import FaissIndex
from llama2vec.retrieve.index.folder import build_index, open_index, search_facts
from llama2vec.retrieve.settings import IndexKind, SearchRequest
from llama2vec.retrieve.store.reader import VectorStore

COUNT, WIDTH = 3000, 32


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return store_of(clustered(COUNT, WIDTH), tmp_path_factory.mktemp("index") / "store")


def recall(index: FaissIndex) -> float:
    """Measure as the module says that it does, in another way: each passage without itself."""
    rows = np.linspace(0, COUNT - 1, 500).astype(np.int64)
    queries = index.store.vectors(rows)
    pairs = zip(rows, index.search(queries, 11)[1], ExactIndex(index.store).search(queries, 11)[1], strict=True)
    return float(np.mean([len((set(found) & set(true)) - {own}) / 10 for own, found, true in pairs]))


@pytest.mark.parametrize("kind", ["faiss-hnsw", "faiss-int8", "faiss-binary"])
def test_an_index_reaches_its_recall_and_says_so(kind: IndexKind, store: VectorStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index", kind=kind, search=SearchRequest(recall=0.98))
    index = open_index(tmp_path / "index")
    assert isinstance(index, FaissIndex)
    assert index.settings.recall == 0.98
    assert index.settings.measured is not None
    assert index.settings.measured >= 0.98
    assert recall(index) == pytest.approx(index.settings.measured, abs=0.003)
    facts = search_facts(tmp_path / "index")
    assert f"recall@10 {index.settings.measured:.3f} on sampled passages (asked for: 0.98)" in facts


def test_less_recall_costs_less(store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_module, "_PARTITIONED", 1000)
    monkeypatch.setattr(faiss_module, "_TRAIN_PER_CENTROID", 11)
    found = []
    for target in (0.5, 0.9, 0.995):
        build_index(store, tmp_path / str(target), kind="faiss-binary", search=SearchRequest(recall=target))
        index = open_index(tmp_path / str(target))
        assert isinstance(index, FaissIndex)
        assert index.cells == 219
        found.append(tuning._cost(index, index.settings.effort, index.settings.rescore))
        assert (index.settings.measured or 0) >= target
    assert sorted(set(found)) == found


def test_the_cheapest_settings_are_found_without_trying_dearer_ones(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_module, "_PARTITIONED", 1000)
    monkeypatch.setattr(faiss_module, "_TRAIN_PER_CENTROID", 11)
    build_index(store, tmp_path / "index", kind="faiss-int8", search=SearchRequest(recall=0.9))
    index = open_index(tmp_path / "index")
    assert isinstance(index, FaissIndex)
    first, tried = index.settings.model_copy(update={"measured": None}), list[int | None]()
    queries, own, wanted = tuning._sample(store)
    good = []
    for effort in tuning._efforts(index):
        index.settings = first.model_copy(update={"effort": effort})
        reached = [(tuning._cost(index, effort, rescore), effort, rescore)
                   for rescore, found in tuning._recalls(index, queries, own, wanted) if found >= 0.9]  # fmt: skip
        good += reached
    index.settings = first
    search = index.candidates

    def counted(*arguments: object) -> object:
        tried.append(index.settings.effort)
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "candidates", counted)
    best = tuning.tuned(index, 0.9)
    cost, effort, rescore = min(good)
    assert (best.effort, best.rescore) == (effort, rescore)
    assert all(tuning._cost(index, one, 0) < cost for one in tried[:-1])
    assert max(one or 0 for one in tried) < (index.cells or 0)


def test_a_recall_out_of_reach_names_the_best_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_RESCORES", (1,))
    store = store_of(clustered(1000, 32), tmp_path / "store")
    with pytest.raises(StoreError, match=r"faiss-binary over .* reaches a recall@10 of 0\.\d+ at most, not 0\.99;"):
        build_index(store, tmp_path / "index", kind="faiss-binary", search=SearchRequest(recall=0.99))
    assert not (tmp_path / "index").exists()


def test_the_number_of_passages_chooses_the_kind(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_index(store, tmp_path / "few", search=SearchRequest(recall=0.98)) == ["exact"]
    assert search_facts(tmp_path / "few") == ""
    monkeypatch.setattr(tuning, "_FEW", 1000)
    assert build_index(store, tmp_path / "many", search=SearchRequest(recall=0.98)) == ["faiss-int8"]
    monkeypatch.setattr(tuning, "_IN_BYTES", 2000)
    assert build_index(store, tmp_path / "most", search=SearchRequest(recall=0.98)) == ["faiss-binary"]


def test_a_tuned_index_stays_as_it_is_until_something_else_is_asked_for(store: VectorStore, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert build_index(store, index, kind="faiss-int8", search=SearchRequest(recall=0.9, dims=16)) == ["faiss-int8"]
    settings = open_index(index).settings  # type: ignore[attr-defined]
    assert (settings.dims, settings.recall) == (16, 0.9)
    assert build_index(store, index, kind="faiss-int8", search=SearchRequest(recall=0.9, dims=16)) == []
    assert build_index(store, index, bm25="en") == ["bm25"]
    assert open_index(index).settings == settings  # type: ignore[attr-defined]
    with pytest.raises(OutputExistsError):
        build_index(store, index, kind="faiss-int8", search=SearchRequest(recall=0.95, dims=16))
    assert build_index(store, index, kind="faiss-int8", overwrite=True) == ["faiss-int8"]
    assert open_index(index).settings.recall is None  # type: ignore[attr-defined]


def test_impossible_requests_are_refused(store: VectorStore, tmp_path: Path) -> None:
    for share in (0, 1.5):
        with pytest.raises(ConfigError, match="give a share above 0 and up to 1"):
            build_index(store, tmp_path / "index", kind="faiss-hnsw", search=SearchRequest(recall=share))
    with pytest.raises(ConfigError, match="--dims: an exact index compares all dimensions"):
        build_index(store, tmp_path / "index", kind="exact", search=SearchRequest(dims=8))
    assert not (tmp_path / "index").exists()

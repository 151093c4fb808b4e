"""Codes of a byte or a bit for each dimension, ranked again by the store's vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_stores import clustered, store_of

from llama2vec.errors import ConfigError
from llama2vec.retrieve.index import exact as exact_module
from llama2vec.retrieve.index import faiss as faiss_module
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.faiss import FaissIndex, default_search, write_faiss_index
from llama2vec.retrieve.index.folder import build_index, open_index
from llama2vec.retrieve.settings import FaissSearch, IndexKind, SearchRequest
from llama2vec.retrieve.store.reader import VectorStore

COUNT, WIDTH = 4000, 64
CODES: list[tuple[IndexKind, int]] = [("faiss-int8", 64), ("faiss-binary", 16)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return store_of(clustered(COUNT, WIDTH), tmp_path_factory.mktemp("index") / "store")


@pytest.fixture(scope="module")
def queries(store: VectorStore) -> npt.NDArray[np.float32]:
    near = store.vectors(np.arange(0, COUNT, 80)) + np.random.default_rng(0).normal(scale=0.05, size=(50, WIDTH))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def recall(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    return float(np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, wanted, strict=True)]))


def built(store: VectorStore, folder: Path, kind: IndexKind, dims: int | None = None) -> FaissIndex:
    build_index(store, folder, kind=kind, search=SearchRequest(dims=dims))
    index = open_index(folder)
    assert isinstance(index, FaissIndex)
    return index


@pytest.mark.parametrize(("kind", "held"), CODES)
def test_few_bytes_find_candidates_and_the_store_ranks_them(
    kind: IndexKind, held: int, store: VectorStore, queries: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index = built(store, tmp_path / "index", kind)
    assert index.code_bytes == held
    assert index.settings == default_search(kind, None)
    scores, rows = index.search(queries, 10)
    wanted = ExactIndex(store).search(queries, 10)[1]
    assert recall(rows, wanted) >= 0.98
    # The scores are those of the store's vectors, best first.
    np.testing.assert_allclose(
        scores, np.einsum("qd,qkd->qk", queries, store.vectors(rows).reshape(50, 10, WIDTH)), atol=1e-5
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    index.settings = FaissSearch()
    assert recall(index.search(queries, 10)[1], wanted) < 1


@pytest.mark.parametrize(("kind", "held"), CODES)
def test_codes_of_many_passages_lie_in_cells(
    kind: IndexKind, held: int, store: VectorStore, queries: npt.NDArray[np.float32], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(faiss_module, "_PARTITIONED", 1000)
    monkeypatch.setattr(faiss_module, "_TRAIN_PER_CENTROID", 15)
    index = built(store, tmp_path / "index", kind)
    assert index.cells == 253
    assert recall(index.search(queries, 10)[1], ExactIndex(store).search(queries, 10)[1]) >= 0.9


@pytest.mark.parametrize("kind", ["faiss-int8", "faiss-binary"])
def test_codes_are_searched_among_some_rows(
    kind: IndexKind, store: VectorStore, queries: npt.NDArray[np.float32], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(exact_module, "_FEW_ROWS", 0)
    index = built(store, tmp_path / "index", kind)
    for step in (2, 7):
        allowed = np.arange(1, COUNT, step)
        rows = index.search(queries, 10, allowed)[1]
        assert np.isin(rows, allowed).all()
        assert recall(rows, ExactIndex(store).search(queries, 10, allowed)[1]) >= 0.97


def test_a_search_deeper_than_a_block_of_candidates_gives_the_same(
    store: VectorStore, queries: npt.NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = built(store, tmp_path / "index", "faiss-int8")
    scores, rows = index.search(queries, 100)
    monkeypatch.setattr(faiss_module, "_RANKED_AGAIN", 1000)
    again, same = index.search(queries, 100)
    assert np.array_equal(rows, same)
    np.testing.assert_allclose(again, scores, atol=1e-6)
    deepest = index.search(queries[:2], 10**9)
    assert deepest[1].shape == (2, COUNT)
    assert np.array_equal(deepest[1], ExactIndex(store).search(queries[:2], COUNT)[1])


def test_the_first_dimensions_find_candidates_for_all_of_them(tmp_path: Path) -> None:
    table = clustered(2000, 64)
    table[:, 32:] *= 0.2  # as a model trained with Matryoshka: the first dimensions say most
    store = store_of(table / np.linalg.norm(table, axis=1, keepdims=True), tmp_path / "store")
    queries = store.vectors(np.arange(0, 2000, 40))
    exact, wanted = ExactIndex(store).search(queries, 10)
    index = built(store, tmp_path / "index", "faiss-flat", dims=32)
    assert index.code_bytes == 128
    scores, rows = index.search(queries, 10)
    assert recall(rows, wanted) >= 0.98
    np.testing.assert_allclose(scores[:, 0], exact[:, 0], atol=1e-5)
    assert (
        index.facts() == "128 bytes a passage of 32 dimensions; 16 candidates a hit ranked again by the store's vectors"
    )
    for dims in (64, 100):
        with pytest.raises(ConfigError, match=f"--dims {dims}: the vectors of .* have 64; give fewer"):
            write_faiss_index(store, "faiss-flat", tmp_path / "file", dims)

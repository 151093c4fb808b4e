"""Exact and approximate search over a store."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_stores import TableEncoder, clustered, store_of

from llama2vec.errors import ConfigError, DataError, StoreError
from llama2vec.records import Passage
from llama2vec.retrieve.index import exact as exact_module
from llama2vec.retrieve.index.exact import ExactIndex, Index, Nearest, best_rows
from llama2vec.retrieve.index.faiss import FaissIndex, write_faiss_index
from llama2vec.retrieve.index.folder import build_index, open_index
from llama2vec.retrieve.settings import IndexKind
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return store_of(clustered(4000, 32), tmp_path_factory.mktemp("index") / "store")


def built(store: VectorStore, folder: Path, kind: IndexKind) -> Index:
    build_index(store, folder, kind=kind)
    return open_index(folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
@pytest.mark.parametrize("kind", ["faiss-flat", "faiss-hnsw"])
def test_a_full_disk_is_an_error_with_its_number_and_faiss_prints_nothing(
    store: VectorStore, kind: IndexKind, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_faiss_index(store, kind, Path("/dev/full"))
    assert raised.value.errno == errno.ENOSPC
    assert "No space" not in capfd.readouterr().err


def recall(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    return float(np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, wanted, strict=True)]))


def test_faiss_flat_agrees_with_exact(store: VectorStore, tmp_path: Path) -> None:
    queries = clustered(20, 32, seed=1)
    scores, rows = ExactIndex(store).search(queries, 10)
    flat_scores, flat_rows = built(store, tmp_path / "flat", "faiss-flat").search(queries, 10)
    assert recall(flat_rows, rows) > 0.99
    np.testing.assert_allclose(flat_scores, scores, atol=1e-5)


def test_hnsw_finds_nine_of_ten_neighbors(store: VectorStore, tmp_path: Path) -> None:
    queries = clustered(50, 32, seed=1)
    index = built(store, tmp_path / "hnsw", "faiss-hnsw")
    assert isinstance(index, FaissIndex)
    assert index.kind == "faiss-hnsw"
    assert recall(index.search(queries, 10)[1], ExactIndex(store).search(queries, 10)[1]) > 0.9


def test_ivfpq_trains_on_a_sample_and_finds_most_neighbors(tmp_path: Path) -> None:
    store = store_of(clustered(10_500, 16), tmp_path / "store", shard_size=4000)
    index = built(store, tmp_path / "ivfpq", "faiss-ivfpq")
    queries = clustered(50, 16, seed=1)
    assert recall(index.search(queries, 10)[1], ExactIndex(store).search(queries, 10)[1]) > 0.6


@pytest.mark.parametrize(("kind", "least"), [("exact", 1.0), ("faiss-flat", 0.999), ("faiss-hnsw", 0.9)])
@pytest.mark.parametrize("share", [0.002, 0.06, 0.5])
def test_a_search_among_some_rows_finds_the_nearest_of_them(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: IndexKind, least: float, share: float
) -> None:
    monkeypatch.setattr(exact_module, "_FEW_ROWS", 0)  # else an index of this size would search exactly
    queries = clustered(30, 32, seed=1)
    allowed = np.flatnonzero(np.random.default_rng(2).random(len(store)) < share)
    scores, rows = built(store, tmp_path / "index", kind).search(queries, 20, allowed)
    assert rows.shape == (30, min(20, len(allowed)))
    assert np.isin(rows, allowed).all()
    products = queries @ store.vectors(allowed).T
    assert recall(rows, allowed[np.argsort(-products, axis=1)[:, :20]]) >= least
    np.testing.assert_allclose(
        scores, np.einsum("qd,qkd->qk", queries, store.vectors(rows).reshape(30, -1, 32)), atol=1e-5
    )


def test_ivfpq_searches_among_some_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "_FEW_ROWS", 0)
    store = store_of(clustered(10_500, 16), tmp_path / "store", shard_size=4000)
    index, queries = built(store, tmp_path / "ivfpq", "faiss-ivfpq"), clustered(50, 16, seed=1)
    for step in (3, 40):
        allowed = np.arange(1, len(store), step)
        rows = index.search(queries, 10, allowed)[1]
        assert np.isin(rows, allowed).all()
        assert recall(rows, ExactIndex(store).search(queries, 10, allowed)[1]) > 0.6


@pytest.mark.parametrize("kind", ["exact", "faiss-flat"])
def test_no_allowed_row_gives_nothing(kind: IndexKind, tmp_path: Path) -> None:
    index = built(store_of(clustered(20, 8), tmp_path / "store"), tmp_path / "index", kind)
    scores, rows = index.search(clustered(2, 8), 5, np.array([], dtype=np.int64))
    assert scores.shape == rows.shape == (2, 0)


def test_ivfpq_says_how_many_passages_it_needs(store: VectorStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="needs 9,984 passages to train on and has 4,000; use exact or faiss-hnsw"):
        build_index(store, tmp_path / "ivfpq", kind="faiss-ivfpq")
    assert not list(tmp_path.iterdir())


def test_exact_search_reads_half_precision(tmp_path: Path) -> None:
    table = np.eye(4, dtype=np.float32)
    store = write_store(
        lambda: (Passage(str(n), "") for n in range(4)), TableEncoder(table), tmp_path, source={}, dtype="float16"
    )
    assert ExactIndex(store).search(table, 1)[1].tolist() == [[0], [1], [2], [3]]


def test_exact_search_needs_the_same_memory_whatever_the_size_of_the_corpus(tmp_path: Path) -> None:
    count, width, bound_bytes = 200_000, 32, 48 * 2**20
    table = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    store = store_of(table, tmp_path, shard_size=20_000)
    queries = table[:200].copy()
    del table
    tracemalloc.start()
    try:
        ExactIndex(store).search(queries, 100)
        assert tracemalloc.get_traced_memory()[1] < bound_bytes  # all scores at once would be 160 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["exact", "faiss-flat", "faiss-hnsw"])
def test_a_depth_beyond_the_corpus_gives_the_whole_corpus(kind: IndexKind, tmp_path: Path) -> None:
    table = np.eye(4, dtype=np.float32)[:3]
    index = built(store_of(table, tmp_path / "store"), tmp_path / "index", kind)
    scores, rows = index.search(np.array([[0.0, 1, 0, 0]], dtype=np.float32), 10**12)
    assert rows.tolist() == [[1, 0, 2]]
    assert scores.tolist() == [[1, 0, 0]]
    assert index.search(np.empty((0, 4), dtype=np.float32), 5)[1].shape == (0, 3)


def test_queries_that_cannot_be_compared_are_refused(store: VectorStore) -> None:
    with pytest.raises(StoreError, match="have width 32"):
        ExactIndex(store).search(np.zeros((1, 8), np.float32), 3)
    with pytest.raises(StoreError, match="query 2 of 2 is not finite"):
        ExactIndex(store).search(np.float32([[0.0] * 32, [np.nan] * 32]), 3)
    with pytest.raises(ConfigError, match="at least 1"):
        ExactIndex(store).search(np.zeros((1, 32), np.float32), 0)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_module, "_BLOCK_ROWS", 20)


@pytest.mark.usefixtures("small_blocks")
def test_lists_of_numbers_are_searched_and_other_queries_are_one_line(store: VectorStore) -> None:
    index = ExactIndex(store)
    vectors = store.vectors([0, 3])
    for found, expected in zip(index.search(vectors.tolist(), 2), index.search(vectors, 2), strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, expected)
    for wrong, said in (
        (["river"], "the queries are an array of str.*; give vectors"),
        ([[0.1], [0.2, 0.3]], "the queries cannot be read as an array"),
        ([None], "the queries are an array of object"),
    ):
        with pytest.raises(DataError, match=said):
            index.search(wrong, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [1, -1], ids=["each block better than all before", "each block worse"])
def test_blocks_in_the_worst_order_leave_the_best(order: int) -> None:
    table = np.linspace(-1, 1, 1000, dtype=np.float32)[::order, None]
    found = Nearest(np.float32([[1], [-1]]), depth=7)
    for begin in range(0, len(table), 50):
        found.add(table[begin : begin + 50], begin)
    scores, rows = found.best()
    assert rows[0].tolist() == np.argsort(-table[:, 0], kind="stable")[:7].tolist()
    assert rows[1].tolist() == np.argsort(table[:, 0], kind="stable")[:7].tolist()
    np.testing.assert_array_equal(scores[0], table[rows[0], 0])


@pytest.mark.usefixtures("small_blocks")
def test_vectors_that_are_not_numbers_are_never_found() -> None:
    table = np.float32([[np.nan], [0.5], [np.nan], [-np.inf], [0.25]])
    found = Nearest(np.float32([[1]]), depth=3)
    found.add(table, 0)
    assert found.best()[1].tolist() == [[1, 4, -1]]


@pytest.mark.usefixtures("small_blocks")
def test_equal_scores_keep_the_lower_rows() -> None:
    found = Nearest(np.float32([[1]]), depth=3)
    found.add(np.ones((100, 1), np.float32), 0)
    found.add(np.ones((100, 1), np.float32), 100)
    assert found.best()[1].tolist() == [[0, 1, 2]]
    assert best_rows(np.ones(10, np.float32), 3).tolist() == [0, 1, 2]


@pytest.mark.usefixtures("small_blocks")
def test_fewer_vectors_than_wanted_leave_the_rest_empty() -> None:
    found = Nearest(np.float32([[1], [-1]]), depth=4)
    found.add(np.float32([[2], [3]]), 0)
    scores, rows = found.best()
    assert rows.tolist() == [[1, 0, -1, -1], [0, 1, -1, -1]]
    assert scores.tolist() == [[3, 2, -np.inf, -np.inf], [-2, -3, -np.inf, -np.inf]]

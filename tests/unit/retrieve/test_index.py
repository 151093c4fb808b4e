"""Exact and approximate search over a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llama2vec.errors import ConfigError, OutputExistsError, StoreError
from llama2vec.records import Passage
from llama2vec.retrieve import index as index_module
from llama2vec.retrieve.index import AnnSettings, ExactIndex, FaissIndex, build_index, open_index
from llama2vec.retrieve.nearest import Nearest
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store


class TableEncoder:
    """The vector of passage "n" is row n of a table."""

    contract_hash = "c0ffee"

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        self.table = table
        self.dimension = table.shape[1]

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self.table[[int(passage.id) for passage in passages]]


def clustered(count: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(50, width))
    vectors = centres[random.integers(50, size=count)] + 0.3 * random.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def store_of(table: npt.NDArray[np.float32], folder: Path, shard_size: int = 700) -> VectorStore:
    return write_store(
        lambda: (Passage(str(n), "text") for n in range(len(table))),
        TableEncoder(table),
        folder,
        source={},
        shard_size=shard_size,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return store_of(clustered(4000, 32), tmp_path_factory.mktemp("index") / "store")


def recall(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    return float(np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, wanted, strict=True)]))


def test_faiss_flat_agrees_with_exact(store: VectorStore, tmp_path: Path) -> None:
    queries = clustered(20, 32, seed=1)
    scores, rows = ExactIndex(store).search(queries, 10)
    flat_scores, flat_rows = build_index(store, tmp_path / "flat", kind="faiss-flat").search(queries, 10)
    assert recall(flat_rows, rows) > 0.99
    np.testing.assert_allclose(flat_scores, scores, atol=1e-5)


def test_hnsw_finds_nine_of_ten_neighbors(store: VectorStore, tmp_path: Path) -> None:
    queries = clustered(50, 32, seed=1)
    index = build_index(store, tmp_path / "hnsw", kind="faiss-hnsw")
    assert isinstance(index, FaissIndex)
    assert index.kind == "faiss-hnsw"
    assert recall(index.search(queries, 10)[1], ExactIndex(store).search(queries, 10)[1]) > 0.9


def test_ivfpq_trains_on_a_sample_and_finds_most_neighbors(tmp_path: Path) -> None:
    store = store_of(clustered(10_500, 16), tmp_path / "store", shard_size=4000)
    settings = AnnSettings(ivf_nlist=20, training_passages=9984)
    index = build_index(store, tmp_path / "ivfpq", kind="faiss-ivfpq", settings=settings)
    queries = clustered(50, 16, seed=1)
    assert recall(index.search(queries, 10)[1], ExactIndex(store).search(queries, 10)[1]) > 0.6


def test_ivfpq_says_how_many_passages_it_needs(store: VectorStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="needs 9,984 passages to train on and has 4,000; use exact or faiss-hnsw"):
        build_index(store, tmp_path / "ivfpq", kind="faiss-ivfpq")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["exact", "faiss-flat", "faiss-hnsw"])
def test_missing_results_are_padded(kind: str, tmp_path: Path) -> None:
    table = np.eye(4, dtype=np.float32)[:3]
    index = build_index(store_of(table, tmp_path / "store"), tmp_path / "index", kind=kind)  # type: ignore[arg-type]
    scores, rows = index.search(np.array([[0.0, 1, 0, 0]], dtype=np.float32), 5)
    assert rows.tolist() == [[1, 0, 2, -1, -1]]
    assert scores.tolist() == [[1, 0, 0, -np.inf, -np.inf]]
    assert index.search(np.empty((0, 4), dtype=np.float32), 5)[1].shape == (0, 5)


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


def test_vectors_that_are_not_numbers_are_never_found() -> None:
    table = np.float32([[np.nan], [0.5], [np.nan], [-np.inf], [0.25]])
    found = Nearest(np.float32([[1]]), depth=3)
    found.add(table, 0)
    assert found.best()[1].tolist() == [[1, 4, -1]]


def test_rows_that_a_key_cannot_count_are_refused() -> None:
    found = Nearest(np.float32([[1]]), depth=2)
    found.add(np.float32([[0.5]]), 2**32 - 2)
    assert found.best()[1].tolist() == [[2**32 - 2, -1]]
    with pytest.raises(StoreError, match="at most 4,294,967,295 vectors"):
        found.add(np.float32([[0.5]]), 2**32 - 1)


def test_an_index_opens_again_also_when_moved_with_its_store(store: VectorStore, tmp_path: Path) -> None:
    table = clustered(300, 16)
    store_of(table, tmp_path / "a" / "store")
    built = build_index(tmp_path / "a" / "store", tmp_path / "a" / "index", kind="faiss-hnsw")
    expected = built.search(table[:5], 3)
    (tmp_path / "a").rename(tmp_path / "b")
    scores, rows = open_index(tmp_path / "b" / "index").search(table[:5], 3)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    (tmp_path / "b" / "store").rename(tmp_path / "b" / "elsewhere")
    with pytest.raises(StoreError, match=r"belongs to the store .*store, which is gone"):
        open_index(tmp_path / "b" / "index")


def test_a_store_opens_as_an_exact_index(store: VectorStore) -> None:
    index = open_index(store.path)
    assert (index.kind, index.contract_hash, len(index.store)) == ("exact", "c0ffee", 4000)


def test_an_index_of_another_store_or_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    store_of(clustered(50, 8), tmp_path / "store")
    build_index(tmp_path / "store", tmp_path / "index", kind="faiss-flat")
    file = tmp_path / "index" / "index.faiss"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"index\.faiss is missing or damaged; build the index again"):
        open_index(tmp_path / "index")
    manifest = json.loads((tmp_path / "store" / "store.json").read_text())
    (tmp_path / "store" / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="built from other vectors"):
        open_index(tmp_path / "index")


def test_an_index_is_replaced_only_with_overwrite_and_another_folder_never(store: VectorStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        build_index(store, tmp_path / "index", kind="faiss-flat")
    assert build_index(store, tmp_path / "index", kind="faiss-flat", overwrite=True).kind == "faiss-flat"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="is not an index"):
        build_index(store, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.skipif(os.name != "posix", reason="whether a process lives is asked on POSIX only")
def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(
    store: VectorStore, tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as killed:
        killed.kill()
    for pid in (killed.pid, os.getppid()):
        (tmp_path / f".index.new-{index_module._machine()}-{pid}-0123abcd").mkdir()
    (tmp_path / f".index.new-ffffffff-{killed.pid}-0123abcd").mkdir()
    build_index(store, tmp_path / "index")
    left = sorted(path.name.split("-", 1)[1] for path in tmp_path.iterdir() if path.name != "index")
    assert left == sorted([f"{index_module._machine()}-{os.getppid()}-0123abcd", f"ffffffff-{killed.pid}-0123abcd"])


def test_wrong_requests_are_told_in_one_line(store: VectorStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no index kind 'annoy'; choose one of exact, faiss-flat"):
        build_index(store, tmp_path / "x", kind="annoy")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no index at"):
        open_index(tmp_path)
    with pytest.raises(StoreError, match="have width 32"):
        ExactIndex(store).search(np.zeros((1, 8), np.float32), 3)
    with pytest.raises(ConfigError, match="at least 1"):
        ExactIndex(store).search(np.zeros((1, 32), np.float32), 0)

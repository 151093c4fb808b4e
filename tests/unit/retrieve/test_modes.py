"""Searching one index by vectors, words, the words of embeddings, or all together."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_array

import llama2vec.retrieve.sparse as sparse_module
from llama2vec.errors import ConfigError, OutputExistsError, StoreError
from llama2vec.records import Passage, Query
from llama2vec.retrieve.fusion import reciprocal_rank_fusion, weighted_fusion
from llama2vec.retrieve.index import build_index, open_index
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.modes import Fusion, Retriever, carried_modes, check_mode, index_store
from llama2vec.retrieve.search import search
from llama2vec.retrieve.sparse import SparseIndex
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store

WORDS = ("llama", "camel", "sheep", "wool", "desert", "andes", "zebra")
TEXTS = (
    *("llama andes", "camel desert", "sheep wool", "llama camel"),
    *("llama llama wool", "zebra", "", "wool wool camel desert"),
)
QUERIES = [Query("a", "llama wool"), Query("b", "desert"), Query("c", "andes sheep camel"), Query("d", "unknown")]


class Dense:
    """A stand-in: one dimension per word."""

    dimension = len(WORDS)

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash

    def _counts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self._counts([passage.text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._counts([query.text for query in queries])


class Words:
    """A stand-in for the words of embeddings: each word calls up its neighbor in the list too."""

    words, language = WORDS, "en"

    def __init__(self, name: str = "words", contract_hash: str = "c0ffee") -> None:
        self.hash, self.contract_hash = name, contract_hash
        self.read: list[str] = []

    def sparse(self, texts: Sequence[str], side: str, /) -> csr_array:
        self.read += texts
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return csr_array(np.sqrt(counts) + 0.3 * np.roll(counts, 1, axis=1))


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    passages = [Passage(f"p{n}", text) for n, text in enumerate(TEXTS)]
    return write_store(lambda: iter(passages), Dense(), tmp_path / "store", source={}, shard_size=3)


@pytest.fixture
def folder(store: VectorStore, tmp_path: Path) -> Path:
    made = index_store(store.path, tmp_path / "index", bm25="en", words=Words)
    assert made == ["exact", "bm25", "sparse"]
    return tmp_path / "index"


def test_an_index_offers_the_modes_that_it_carries(store: VectorStore, folder: Path, tmp_path: Path) -> None:
    assert Retriever.open(folder, Dense()).modes == carried_modes(folder) == ("hybrid", "dense", "bm25", "sparse")
    assert Retriever.open(folder, None).modes == ("bm25",)
    assert Retriever.open(store.path, Dense()).modes == carried_modes(store.path) == ("dense",)
    build_index(store, tmp_path / "old")
    assert Retriever.open(tmp_path / "old", Dense()).modes == ("dense",)


def test_each_mode_finds_what_its_own_index_finds(store: VectorStore, folder: Path) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    assert (
        retriever.search(QUERIES, "dense", depth=4).results
        == search(open_index(folder), Dense(), QUERIES, depth=4).results
    )
    passages = store.passages(range(len(store)))
    bm25 = Bm25Index.build(passages).search(QUERIES, depth=4)
    found = retriever.search(QUERIES, "bm25", depth=4)
    assert found.tag == "bm25"
    assert {query: list(scores) for query, scores in found.results.items()} == {
        query: list(scores) for query, scores in bm25.results.items()
    }
    assert all(found.results[query] == pytest.approx(bm25.results[query]) for query in bm25.results)


def test_sparse_search_ranks_by_the_dot_product(store: VectorStore, folder: Path) -> None:
    table = (Words().sparse([q.text for q in QUERIES], "query") @ Words().sparse(TEXTS, "passage").T).toarray()
    run = Retriever.open(folder, Dense(), words=Words()).search(QUERIES, "sparse", depth=len(TEXTS))
    for query, scores in zip(QUERIES, table, strict=True):
        order = [row for row in np.argsort(-scores, kind="stable") if scores[row] > 0]
        assert list(run.results[query.id]) == [f"p{row}" for row in order]
        assert list(run.results[query.id].values()) == pytest.approx(scores[order].tolist())


def test_sparse_search_equals_brute_force_on_random_vectors(store: VectorStore, folder: Path) -> None:
    draw = np.random.default_rng(0)
    built = SparseIndex.open(folder / "sparse", store)
    passages = Words().sparse(TEXTS, "passage").toarray()
    for depth in (1, 3, 20):
        queries = draw.random((6, len(WORDS)), dtype=np.float32) * (draw.random((6, len(WORDS))) < 0.4)
        scores, rows = built.search(csr_array(queries.astype(np.float32)), depth)
        for query, found, found_rows in zip(queries, scores, rows, strict=True):
            expected = np.sort((passages @ query)[(passages @ query) > 0])[::-1][:depth]
            np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-5)
            assert (found[len(expected) :] == -np.inf).all()
            assert (found_rows[len(expected) :] == -1).all()


def test_hybrid_fuses_the_vectors_with_bm25_and_sparse_where_it_has_a_weight(folder: Path) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    runs = [retriever.search(QUERIES, mode, depth=100) for mode in ("dense", "bm25", "sparse")]
    assert retriever.search(QUERIES, "hybrid", depth=3).results == weighted_fusion(runs[:2], depth=3).results

    def weighted(fusion: Fusion) -> dict[str, dict[str, float]]:
        opened = Retriever.open(folder, Dense(), words=Words(), fusion=fusion)
        return dict(opened.search(QUERIES, "hybrid", depth=3).results)

    three = weighted_fusion(runs, weights=[1, 3, 1], depth=3).results
    assert weighted(Fusion("min-max", {"bm25": 3, "sparse": 1})) == three
    assert weighted(Fusion("rrf", {"sparse": 1})) == reciprocal_rank_fusion(runs, depth=3).results
    (folder / "bm25").rename(folder / "elsewhere")
    without = Retriever.open(folder, Dense(), words=Words())
    assert without.modes == ("dense", "sparse", "hybrid")
    assert without.search(QUERIES, "hybrid", depth=3).results == weighted_fusion(runs[::2], depth=3).results


def test_a_search_is_hybrid_where_there_is_bm25_and_dense_elsewhere(folder: Path, store: VectorStore) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    assert retriever.search(QUERIES).tag == "hybrid"
    assert retriever.search(QUERIES).results == retriever.search(QUERIES, "hybrid").results
    assert retriever.hits("llama wool") == retriever.hits("llama wool", "hybrid")
    assert Retriever.open(store.path, Dense()).search(QUERIES).tag == "dense"
    assert Retriever.open(folder, None).search(QUERIES).tag == "bm25"


def test_a_fusion_without_any_weight_is_refused(folder: Path) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words(), fusion=Fusion(weights={"dense": 0, "bm25": 0}))
    with pytest.raises(ConfigError, match="every mode has the weight 0"):
        retriever.search(QUERIES, "hybrid")


def test_the_first_ranks_do_not_depend_on_how_many_are_asked_for(folder: Path) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    for mode in retriever.modes:
        deep = retriever.search(QUERIES, mode, depth=8).results
        shallow = retriever.search(QUERIES, mode, depth=2).results
        assert {query: list(scores.items())[:2] for query, scores in deep.items()} == {
            query: list(scores.items()) for query, scores in shallow.items()
        }


@pytest.mark.parametrize("mode", ["dense", "bm25", "sparse", "hybrid"])
def test_hits_are_the_run_with_texts(folder: Path, mode: str) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    hits = retriever.hits("llama wool", mode, depth=3)  # type: ignore[arg-type]
    run = retriever.search([Query("a", "llama wool")], mode, depth=3)  # type: ignore[arg-type]
    assert {hit.passage.id: hit.score for hit in hits} == run.results["a"]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert all(TEXTS[int(hit.passage.id[1:])] == hit.passage.text for hit in hits)


def test_a_question_that_shares_no_word_has_no_hits_and_no_queries_give_an_empty_run(folder: Path) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    assert retriever.hits("unknown", "bm25") == retriever.hits("unknown", "sparse") == []
    for mode in retriever.modes:
        assert retriever.search([], mode).results == {}


def test_a_passage_with_the_id_of_its_query_can_be_left_out(folder: Path) -> None:
    retriever = Retriever.open(folder, Dense(), words=Words())
    for mode in retriever.modes:
        found = retriever.search([Query("p4", "llama wool")], mode, depth=2, exclude_same_id=True).results["p4"]
        assert len(found) == 2
        assert "p4" not in found


def test_bm25_needs_no_model_and_the_other_modes_say_so(folder: Path) -> None:
    retriever = Retriever.open(folder, None)
    assert retriever.hits("desert", "bm25", 1)[0].passage.id == "p1"
    with pytest.raises(StoreError, match="cannot be searched by dense, only by bm25; give the model"):
        retriever.search(QUERIES, "dense")


def test_a_mode_that_is_missing_names_what_adds_it(store: VectorStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index")
    retriever = Retriever.open(tmp_path / "index", Dense())
    for mode, option in (("bm25", "--bm25"), ("sparse", "--sparse"), ("hybrid", "--bm25 or --sparse")):
        with pytest.raises(StoreError, match=rf"by {mode}, only by dense; add it: `llama2vec index .* {option}`"):
            retriever.search(QUERIES, mode)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no search mode 'lexical'; choose one of dense, bm25, sparse, hybrid"):
        check_mode("lexical", retriever.modes, tmp_path)
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        retriever.search(QUERIES, "dense", depth=0)


def test_another_contract_is_refused(store: VectorStore, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="encoded under contract c0ffee and the query model has beef"):
        Retriever.open(folder, Dense("beef"))
    with pytest.raises(StoreError, match="the model of the words has beef"):
        index_store(store.path, tmp_path / "new", words=lambda: Words(contract_hash="beef"))
    with pytest.raises(StoreError, match="built under words and the query model gives others"):
        Retriever.open(folder, Dense(), words=Words("others"))
    with pytest.raises(ConfigError, match="needs the model's own output head"):
        Retriever.open(folder, Dense()).search(QUERIES, "sparse")


@pytest.mark.parametrize("part", ["bm25", "sparse"])
def test_a_flipped_byte_or_a_missing_file_is_told(folder: Path, part: str) -> None:
    for file in sorted((folder / part).iterdir()):
        content = file.read_bytes()
        changed = bytearray(content)
        changed[-1] ^= 1
        for damage in (lambda file=file, changed=changed: file.write_bytes(changed), file.unlink):
            damage()
            with pytest.raises(StoreError, match=rf"(damaged|cannot be read); add it again with .* --{part}"):
                Retriever.open(folder, Dense())
        file.write_bytes(content)
    Retriever.open(folder, Dense())


@pytest.mark.parametrize("part", ["bm25", "sparse"])
def test_a_part_of_another_store_is_refused(folder: Path, part: str, tmp_path: Path) -> None:
    other = write_store(lambda: iter([Passage("x", "llama")]), Dense(), tmp_path / "other", source={})
    index_store(other.path, tmp_path / "others")
    (folder / part).rename(tmp_path / "others" / part)
    with pytest.raises(StoreError, match=f"{part} was made of another store"):
        Retriever.open(tmp_path / "others", Dense())


def test_modes_are_added_without_touching_the_rest(store: VectorStore, tmp_path: Path) -> None:
    output = tmp_path / "index"
    assert index_store(store.path, output, kind="faiss-flat") == ["faiss-flat"]
    before = {file.name: file.stat().st_mtime_ns for file in output.iterdir()}
    assert index_store(store.path, output, bm25="en") == ["bm25"]
    assert index_store(store.path, output, words=Words) == ["sparse"]
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in output.iterdir()}.items()
    assert sorted(os.listdir(output)) == ["bm25", "index.faiss", "index.json", "sparse"]
    assert open_index(output).kind == "faiss-flat"


def test_only_what_is_asked_for_is_replaced_and_only_with_overwrite(store: VectorStore, folder: Path) -> None:
    kept = (folder / "sparse" / "part.json").stat().st_ino
    with pytest.raises(OutputExistsError, match="bm25 is there already; pass --overwrite"):
        index_store(store.path, folder, bm25="en")
    assert index_store(store.path, folder, bm25="de", overwrite=True) == ["bm25"]
    assert json.loads((folder / "bm25" / "part.json").read_text())["language"] == "de"
    with pytest.raises(OutputExistsError, match="--overwrite"):
        index_store(store.path, folder)
    assert index_store(store.path, folder, kind="faiss-flat", overwrite=True) == ["faiss-flat"]
    assert (folder / "sparse" / "part.json").stat().st_ino == kept
    assert Retriever.open(folder, Dense()).modes == ("hybrid", "dense", "bm25", "sparse")


def test_a_refused_request_changes_nothing(store: VectorStore, folder: Path) -> None:
    before = sorted(os.listdir(folder)), (folder / "index.json").stat().st_mtime_ns
    with pytest.raises(OutputExistsError, match="sparse is there already"):
        index_store(store.path, folder, kind="faiss-flat", words=Words)
    assert (sorted(os.listdir(folder)), (folder / "index.json").stat().st_mtime_ns) == before


def test_an_index_over_another_store_goes_as_a_whole(folder: Path, tmp_path: Path) -> None:
    other = write_store(lambda: iter([Passage("x", "llama")]), Dense(), tmp_path / "other", source={})
    with pytest.raises(OutputExistsError, match="index over another store"):
        index_store(other.path, folder, bm25="en")
    assert index_store(other.path, folder, bm25="en", overwrite=True) == ["exact", "bm25"]
    assert Retriever.open(folder, Dense()).modes == ("hybrid", "dense", "bm25")


def test_a_killed_sparse_build_goes_on_and_gives_the_same_files(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_module, "_BATCH_PASSAGES", 3)
    index_store(store.path, tmp_path / "whole", words=Words)

    class Killed(Words):
        def sparse(self, texts: Sequence[str], side: str, /) -> csr_array:
            if len(self.read) >= 6:
                raise KeyboardInterrupt
            return super().sparse(texts, side)

    build_index(store, tmp_path / "index")
    with pytest.raises(KeyboardInterrupt):
        index_store(store.path, tmp_path / "index", words=Killed)
    assert carried_modes(tmp_path / "index") == ("dense",)
    rest = Words()
    index_store(store.path, tmp_path / "index", words=lambda: rest)
    assert rest.read == list(TEXTS[6:])
    assert sorted(os.listdir(tmp_path / "index")) == ["index.json", "sparse"]
    for file in (tmp_path / "whole" / "sparse").iterdir():
        assert (tmp_path / "index" / "sparse" / file.name).read_bytes() == file.read_bytes()


def test_a_build_that_another_model_began_starts_again(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_module, "_BATCH_PASSAGES", 3)
    build_index(store, tmp_path / "index")

    class Killed(Words):
        def sparse(self, texts: Sequence[str], side: str, /) -> csr_array:
            if self.read:
                raise KeyboardInterrupt
            return super().sparse(texts, side)

    with pytest.raises(KeyboardInterrupt):
        index_store(store.path, tmp_path / "index", words=lambda: Killed("old"))
    new = Words("new")
    index_store(store.path, tmp_path / "index", words=lambda: new)
    assert new.read == list(TEXTS)


def test_a_corpus_without_any_word_is_searched_and_finds_nothing(tmp_path: Path) -> None:
    store = write_store(lambda: iter([Passage("x", ""), Passage("y", "?")]), Dense(), tmp_path / "store", source={})
    index_store(store.path, tmp_path / "index", bm25="en", words=Words)
    retriever = Retriever.open(tmp_path / "index", Dense(), words=Words())
    assert retriever.search(QUERIES[:1], "bm25").results == retriever.search(QUERIES[:1], "sparse").results == {"a": {}}


def test_neither_building_nor_searching_holds_all_postings(tmp_path: Path) -> None:
    count, per_passage, bound_bytes = 10_000, 64, 2 * 2**20
    draw = np.random.default_rng(0)
    words = np.argsort(draw.random((512, 200)), axis=1)[:, :per_passage].astype(np.int32)
    begins = np.arange(0, words.size + 1, per_passage, dtype=np.int32)
    batch = csr_array((np.ones(words.size, np.float32), words.ravel(), begins), shape=(512, 200))

    class Many(Words):
        words = tuple(f"w{number}" for number in range(200))

        def sparse(self, texts: Sequence[str], side: str, /) -> csr_array:
            return batch[: len(texts)]

    passages = [Passage(str(n), "llama") for n in range(count)]
    store = write_store(lambda: iter(passages), Dense(), tmp_path / "store", source={})
    (tmp_path / "index").mkdir()
    tracemalloc.start()
    try:
        built = SparseIndex.build(store, Many(), tmp_path / "index" / "sparse")
        assert tracemalloc.get_traced_memory()[1] < bound_bytes  # all postings at once would be 5 MB
        tracemalloc.reset_peak()
        built.search(batch[:3], 10)
        assert tracemalloc.get_traced_memory()[1] < bound_bytes / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Fusion("average"), "no fusion 'average'; choose one of rrf, min-max, z-score"),  # type: ignore[arg-type]
        (lambda: Fusion(weights={"hybrid": 1}), "no mode 'hybrid' to weigh; choose from dense, bm25, sparse"),
    ],
)
def test_wrong_fusions_are_told_in_one_line(make: Callable[[], Fusion], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_folder_that_is_no_index_is_not_written_to(store: VectorStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="is not an index"):
        index_store(store.path, tmp_path / "mine", bm25="en", overwrite=True)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]

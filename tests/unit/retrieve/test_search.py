"""From questions to passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llama2vec.errors import StoreError
from llama2vec.records import Passage, Query
from llama2vec.retrieve.index import ExactIndex, build_index
from llama2vec.retrieve.search import search, snippet
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store

WORDS = ("llama", "camel", "sheep")


class WordEncoder:
    """One dimension per word."""

    dimension = len(WORDS)

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self._vectors([passage.text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    texts = ("llama", "camel", "sheep", "llama camel", "llama llama camel")
    passages = [Passage(f"p{n}", text) for n, text in enumerate(texts)]
    return write_store(lambda: iter(passages), WordEncoder(), tmp_path / "store", source={}, shard_size=2)


def test_search_ranks_the_nearest_passages_of_each_query(store: VectorStore) -> None:
    run = search(ExactIndex(store), WordEncoder(), [Query("b", "camel"), Query("a", "llama")], depth=3, tag="words")
    assert run.tag == "words"
    assert list(run.results) == ["b", "a"]
    assert [passage_id for passage_id, _ in run.ranking("a")] == ["p0", "p4", "p3"]
    assert run.results["a"]["p3"] == pytest.approx(0.5**0.5)


def test_a_passage_with_the_id_of_its_query_can_be_left_out(store: VectorStore) -> None:
    run = search(ExactIndex(store), WordEncoder(), [Query("p0", "llama")], depth=2, exclude_same_id=True)
    assert list(run.results["p0"]) == ["p4", "p3"]


def test_a_depth_beyond_the_corpus_gives_the_whole_corpus(store: VectorStore, tmp_path: Path) -> None:
    index = build_index(store, tmp_path / "index", kind="faiss-hnsw")
    run = search(index, WordEncoder(), [Query("a", "llama"), Query("b", "sheep")], depth=50)
    assert [len(scores) for scores in run.results.values()] == [5, 5]
    assert search(index, WordEncoder(), []).results == {}


def test_a_query_model_with_another_contract_is_refused(store: VectorStore) -> None:
    with pytest.raises(StoreError, match="encoded under contract c0ffee and the query model has beef"):
        search(ExactIndex(store), WordEncoder("beef"), [Query("a", "llama")])


@pytest.mark.parametrize("width", [1, 2, 20, 60, 240])
@pytest.mark.parametrize("text", ["word " * 100, "x" * 500, "llama. " * 80, "字" * 300, "a llama " + "b " * 200])
def test_a_snippet_is_never_longer_than_asked(text: str, width: int) -> None:
    assert len(snippet(text, "llama word", width).rstrip("…")) <= width
    assert len(snippet(text, "llama", max(width, 3))) <= max(width, 3)


def test_a_snippet_of_a_script_without_spaces_is_cut_between_signs() -> None:
    text = "一 " + "骆驼在沙漠里行走。" * 20 + "羊驼在安第斯山脉背负重物。" + "骆驼在沙漠里行走。" * 20
    part = snippet(text, "安第斯的羊驼", 40)
    assert "羊驼在安第斯山脉" in part
    assert 38 <= len(part) <= 40


def test_a_snippet_prefers_different_words_to_repeated_ones() -> None:
    text = "llama llama llama " + "filler " * 60 + "The llama lives in Peru. " + "filler " * 60
    assert "llama lives in Peru" in snippet(text, "Where does the LLAMA live in peru?", 60)

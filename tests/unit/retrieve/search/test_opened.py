"""Whatever a search reads belongs to one state of the index, and a replaced index is opened again."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from synced_folder import HashEncoder, content, sync, write

from llama2vec.errors import StoreError, StoreReplacedError
from llama2vec.records import Query
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.search import opened as opened_module
from llama2vec.retrieve.search.opened import OpenedIndex
from llama2vec.retrieve.search.retriever import Retriever

QUESTION = [Query("q", "river market")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", {"a.txt": "river stone", "b.txt": "winter market"})


def test_a_search_after_a_sync_finds_the_new_state_in_every_mode(folder: Path, tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    sync(folder, index, encoder)
    retriever = Retriever.open(index, encoder)
    for number, mode in enumerate(("bm25", "dense", "hybrid")):
        write(folder, {f"new{number}.txt": f"lantern{number}"})
        sync(folder, index, encoder)
        hits = retriever.hits(f"new{number} lantern{number}", mode, depth=1)  # type: ignore[arg-type]
        assert hits[0].passage.id == f"new{number}.txt#1"
        assert len(retriever.store) == 3 + number
    assert retriever.search(QUESTION).results == Retriever.open(index, encoder).search(QUESTION).results


def test_an_index_opened_by_a_relative_path_is_the_same_after_a_change_of_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HashEncoder()
    sync(folder, tmp_path / "index", encoder)
    monkeypatch.chdir(tmp_path)
    retriever = Retriever.open("index", encoder)
    found = retriever.search(QUESTION, "hybrid").results
    monkeypatch.chdir(folder)
    assert retriever.search(QUESTION, "hybrid").results == found


def test_vectors_that_arrive_later_are_used_by_an_open_retriever(folder: Path, tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    sync(folder, index)
    retriever = Retriever.open(index, encoder)
    assert retriever.modes == ("bm25",)
    sync(folder, index, encoder)
    retriever.check_unchanged()
    assert retriever.modes == ("hybrid", "dense", "bm25")
    sync(folder, index, HashEncoder("other"))
    with pytest.raises(StoreReplacedError, match="was encoded under contract other and the query model has c0ffee"):
        retriever.search(QUESTION)


def test_words_that_are_indexed_again_are_read_again(folder: Path, tmp_path: Path) -> None:
    sync(folder, tmp_path / "index")
    retriever = Retriever.open(tmp_path / "index")
    build_index(tmp_path / "index" / "store", tmp_path / "index" / "index", bm25="de", overwrite=True)
    assert [hit.passage.id for hit in retriever.hits("market")] == ["b.txt#1"]


def test_searches_during_syncs_see_the_old_or_the_new_state(folder: Path, tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", HashEncoder()

    def state(number: int) -> dict[str, str]:
        return {
            f"{name}.txt": f"common state{number} {name}\n\ncommon other{number}"
            for name in "abcdefg"[: 3 + number % 4]
        }

    write(folder, state(0))
    sync(folder, index, encoder)
    retriever = Retriever.open(index, encoder)
    seen: list[set[str]] = []
    faults: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            try:
                for mode in ("bm25", "hybrid"):
                    hits = retriever.hits("common", mode, depth=100)  # type: ignore[arg-type]
                    seen.append({word for hit in hits for word in hit.passage.text.split() if word[-1].isdigit()})
                    numbers = {word[-1] for word in seen[-1]}
                    assert len(numbers) == 1, seen[-1]
                    assert len(hits) == 2 * (3 + int(numbers.pop()) % 4)
            except BaseException as error:
                faults.append(error)
                return

    thread = threading.Thread(target=search)
    thread.start()
    for number in range(1, 9):
        for path in folder.iterdir():
            path.unlink()
        write(folder, state(number), 1_000_000_000 + number)
        sync(folder, index, encoder)
    done.set()
    thread.join()
    assert faults == []
    assert seen


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    sync(folder, index, encoder)
    open_bm25 = opened_module.open_bm25

    def replaced_before(path, store):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(opened_module, "open_bm25", open_bm25)
        write(folder, {"c.txt": "castle"})
        sync(folder, index, encoder)
        return open_bm25(path, store)

    monkeypatch.setattr(opened_module, "open_bm25", replaced_before)
    opened = OpenedIndex.open(index)
    assert (len(opened.index.store), opened.is_present) == (3, True)
    assert opened.bm25 is not None
    assert len(opened.bm25) == 3
    monkeypatch.undo()
    with pytest.raises(StoreError, match="no index at"):
        OpenedIndex.open(tmp_path / "nothing")
    assert content(index)
    np.testing.assert_array_equal(
        opened.index.store.vectors([0]), encoder.encode_passages([opened.index.store.passage(0)])
    )

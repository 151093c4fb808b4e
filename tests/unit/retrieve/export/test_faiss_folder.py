"""A store as FAISS files that need nothing of ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
import pytest
from made_stores import TableEncoder, clustered

from llama2vec.errors import EngineError, OutputExistsError
from llama2vec.records import Passage, Place
from llama2vec.retrieve.export.faiss_folder import export_faiss, faiss_snippet
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store

TABLE = clustered(60, 8)


def store_of(folder: Path, count: int, contract: str = "c0ffee") -> VectorStore:
    encoder = TableEncoder(TABLE)
    encoder.contract_hash = contract
    places = {1: Place("a.md", 0, 4, page=3)}
    passages = [Passage(str(n), f"text {n}", "", places.get(n), {"year": n}) for n in range(count)]
    return write_store(lambda: passages, encoder, folder, source={}, shard_size=16)


def test_the_files_hold_what_the_store_holds_and_follow_it(tmp_path: Path) -> None:
    store, files = store_of(tmp_path / "store", 50), tmp_path / "files"
    assert export_faiss(store, files)
    assert not export_faiss(store, files)
    queries = clustered(20, 8, seed=1)
    found = faiss.read_index(str(files / "vectors.faiss")).search(queries, 5)[1]
    assert np.array_equal(found, ExactIndex(store).search(queries, 5)[1])
    with closing(sqlite3.connect(files / "passages.sqlite")) as passages:
        rows = passages.execute("SELECT number, id, text, path, page, fields FROM passages").fetchall()
    assert rows[:2] == [(0, "0", "text 0", None, None, '{"year": 0}'), (1, "1", "text 1", "a.md", 3, '{"year": 1}')]
    assert len(rows) == 50

    assert export_faiss(store_of(tmp_path / "second", 30), files)
    assert faiss.read_index(str(files / "vectors.faiss")).ntotal == 30
    assert sorted(one.name for one in files.iterdir()) == ["collection.json", "passages.sqlite", "vectors.faiss"]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    store, files = store_of(tmp_path / "store", 5), tmp_path / "files"
    export_faiss(store, files)
    with pytest.raises(EngineError, match=r"holds vectors of contract c0ffee, and .* decade; choose another --at"):
        export_faiss(store_of(tmp_path / "other", 5, "decade"), files)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        export_faiss(store, tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_files_of_another_corpus_are_replaced_only_on_request(tmp_path: Path) -> None:
    store, few, files = store_of(tmp_path / "store", 50), store_of(tmp_path / "few", 20), tmp_path / "files"
    export_faiss(store, files)
    before = {one.name: one.read_bytes() for one in files.iterdir()}
    gone = r"files holds 50 passages, 30 of which are no longer in .*few; .* delete those 30, or choose another --at"
    with pytest.raises(EngineError, match=gone):
        export_faiss(few, files)
    assert {one.name: one.read_bytes() for one in files.iterdir()} == before
    assert export_faiss(few, files, replace=True)
    (files / "passages.sqlite").write_bytes(b"damaged, and long enough to be looked at" * 100)
    with pytest.raises(EngineError, match=r"passages.sqlite: file is not a database; pass --overwrite"):
        export_faiss(store, files)
    assert export_faiss(store, files, replace=True)


def test_the_snippet_is_python(tmp_path: Path) -> None:
    compile(faiss_snippet(tmp_path / "it's", "models/it's"), "snippet", "exec")


def test_the_snippet_works_in_every_folder() -> None:
    assert f"Path({str(Path.cwd() / 'files')!r})" in faiss_snippet(Path("files"), "m")

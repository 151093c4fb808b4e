"""Index folders: built, extended, replaced, opened."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from counting_encoder import CountingEncoder
from made_stores import clustered, store_of

from llama2vec.errors import ConfigError, OutputExistsError, StoreError
from llama2vec.files import write_json
from llama2vec.records import Passage
from llama2vec.retrieve.index.folder import build_index, open_bm25, open_fields, open_index
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store

TEXTS = ("llama andes", "camel desert", "sheep wool", "llama llama wool")


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    passages = [Passage(f"p{n}", text) for n, text in enumerate(TEXTS)]
    return write_store(lambda: iter(passages), CountingEncoder(), tmp_path / "store", source={}, shard_size=3)


@pytest.fixture
def other(tmp_path: Path) -> VectorStore:
    return write_store(lambda: iter([Passage("x", "llama")]), CountingEncoder(), tmp_path / "other", source={})


@pytest.fixture
def folder(store: VectorStore, tmp_path: Path) -> Path:
    assert build_index(store, tmp_path / "index", bm25="en") == ["exact", "bm25"]
    return tmp_path / "index"


def test_bm25_with_words_of_another_version_is_added_again_where_it_is_asked_for(
    store: VectorStore, folder: Path
) -> None:
    facts = folder / "bm25" / "corpus.json"
    as_before = facts.read_text(encoding="utf-8")
    write_json(facts, {**json.loads(as_before), "words": 1})
    assert build_index(store, folder) == []
    assert build_index(store, folder, bm25="en") == ["bm25"]
    assert facts.read_text(encoding="utf-8") == as_before
    assert build_index(store, folder, bm25="en") == []


def test_an_index_opens_again_also_when_moved_with_its_store(tmp_path: Path) -> None:
    table = clustered(300, 16)
    store_of(table, tmp_path / "a" / "store")
    build_index(tmp_path / "a" / "store", tmp_path / "a" / "index", kind="faiss-hnsw")
    expected = open_index(tmp_path / "a" / "index").search(table[:5], 3)
    (tmp_path / "a").rename(tmp_path / "b")
    scores, rows = open_index(tmp_path / "b" / "index").search(table[:5], 3)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    (tmp_path / "b" / "store").rename(tmp_path / "b" / "elsewhere")
    with pytest.raises(StoreError, match=r"belongs to the store .*store, which is gone"):
        open_index(tmp_path / "b" / "index")


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


def test_a_store_opens_as_an_exact_index(store: VectorStore) -> None:
    index = open_index(store.path)
    assert (index.kind, index.store.contract_hash, len(index.store)) == ("exact", "c0ffee", 4)
    assert open_bm25(store.path, store) is None


def test_an_unfinished_store_says_so(store: VectorStore) -> None:
    (store.path / "writing.json").write_text('{"expected_passages": 4, "settings": {"shard_size": 2}}')
    (store.path / "store.json").unlink()
    with pytest.raises(StoreError, match="not finished: 2 of 2 shards; run the same encode command again"):
        open_index(store.path)


def test_what_is_missing_is_added_without_touching_the_rest(store: VectorStore, tmp_path: Path) -> None:
    output = tmp_path / "index"
    assert build_index(store, output, kind="faiss-flat") == ["faiss-flat"]
    (output / "notes.txt").write_text("mine")
    before = {file.name: file.stat().st_mtime_ns for file in output.iterdir()}
    assert build_index(store, output, bm25="en") == ["bm25"]
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in output.iterdir()}.items()
    assert sorted(os.listdir(output)) == ["bm25", "index.faiss", "index.json", "notes.txt"]
    assert open_index(output).kind == "faiss-flat"


def test_a_finished_request_has_nothing_to_do(store: VectorStore, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert build_index(store, folder, bm25="en") == build_index(store, folder) == []
    assert build_index(store, folder, kind="exact", bm25="en") == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_differs_is_replaced_only_with_overwrite(store: VectorStore, folder: Path) -> None:
    with pytest.raises(OutputExistsError, match="bm25: 'en' there, 'de' now"):
        build_index(store, folder, bm25="de")
    with pytest.raises(OutputExistsError, match="'exact' there, 'faiss-flat' now"):
        build_index(store, folder, kind="faiss-flat")
    kept = (folder / "index.json").stat().st_ino
    assert build_index(store, folder, bm25="de", overwrite=True) == ["bm25"]
    assert json.loads((folder / "bm25" / "part.json").read_text())["language"] == "de"
    assert (folder / "index.json").stat().st_ino == kept
    kept = (folder / "bm25" / "part.json").stat().st_ino
    assert build_index(store, folder, kind="faiss-flat", overwrite=True) == ["faiss-flat"]
    assert (folder / "bm25" / "part.json").stat().st_ino == kept
    assert build_index(store, folder, overwrite=True) == ["faiss-flat"]


def test_an_index_over_another_store_is_replaced_as_a_whole(other: VectorStore, folder: Path) -> None:
    with pytest.raises(OutputExistsError, match="store: the content differs"):
        build_index(other, folder, bm25="en")
    (folder / "bm25" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"holds bm25/notes\.txt, which llama2vec did not write"):
        build_index(other, folder, overwrite=True)
    (folder / "bm25" / "notes.txt").unlink()
    assert build_index(other, folder, overwrite=True) == ["exact"]
    assert sorted(os.listdir(folder)) == ["index.json"]
    assert len(open_index(folder).store) == 1


def test_a_folder_with_anything_else_is_never_written_to(store: VectorStore, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for content in ("{}", '{"format": "search-index", "pages": [1]}', "[]", "no json"):
        (site / "index.json").write_text(content)
        (site / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputExistsError, match="does not hold an index of llama2vec"):
            build_index(store, site, bm25="en", overwrite=True)
        assert (site / "index.json").read_text() == content
        assert sorted(os.listdir(site)) == ["index.json", "thesis.txt"]
    with pytest.raises(OutputExistsError, match="lies inside the output"):
        build_index(store, store.path.parent, overwrite=True)


@pytest.mark.parametrize("asked", [{"bm25": "en"}, {"kind": "exact", "bm25": "en"}])
def test_the_same_request_completes_a_killed_one(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    output = tmp_path / "index"

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llama2vec.retrieve.index.folder._write_bm25", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(store, output, **asked)  # type: ignore[arg-type]
        assert not output.exists()
    assert build_index(store, output, **asked) == ["exact", "bm25"]  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == {"store", "index"}


def test_a_killed_replacement_leaves_the_old_index_whole(
    store: VectorStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llama2vec.retrieve.index.folder.write_faiss_index", killed)
    with pytest.raises(KeyboardInterrupt):
        build_index(store, folder, kind="faiss-flat", overwrite=True)
    assert open_index(folder).kind == "exact"
    assert open_bm25(folder, store) is not None


def test_a_flipped_byte_or_a_missing_file_of_bm25_is_noticed(store: VectorStore, folder: Path) -> None:
    for file in sorted((folder / "bm25").iterdir()):
        content = file.read_bytes()
        changed = bytearray(content)
        changed[-2] ^= 1
        for damage in (lambda file=file, changed=changed: file.write_bytes(changed), file.unlink):
            damage()
            with pytest.raises(StoreError, match=r"add it again with .* --bm25 --overwrite"):
                open_bm25(folder, store)
        file.write_bytes(content)
    assert open_bm25(folder, store) is not None


def test_a_bit_flipped_in_bm25_while_the_index_is_open_is_noticed(store: VectorStore, folder: Path) -> None:
    opened = open_bm25(folder, store)
    assert opened is not None
    best = opened.best("wool", 1)[1].tolist()
    for file in sorted((folder / "bm25").glob("*.npy")):
        content = file.read_bytes()
        for place in range(128, len(content), 5):
            changed = bytearray(content)
            changed[place] ^= 64
            with file.open("r+b") as mapped:  # the same file that is mapped into memory
                mapped.write(changed)
            with pytest.raises(StoreError, match=r"damaged, or was replaced after it was opened; add it again with"):
                opened.best("wool", 1)
            with pytest.raises(StoreError, match="damaged"):
                opened.score_text("wool", "wool")
        with file.open("r+b") as mapped:
            mapped.write(content)
        assert opened.best("wool", 1)[1].tolist() == best == [2]


def test_passages_with_fields_get_a_table_that_the_index_names(tmp_path: Path, store: VectorStore) -> None:
    passages = [Passage(f"p{n}", text, fields={"year": 2020 + n}) for n, text in enumerate(TEXTS)]
    dated = write_store(lambda: iter(passages), CountingEncoder(), tmp_path / "dated", source={}, shard_size=3)
    output = tmp_path / "index"
    for kind in ("exact", "faiss-flat"):
        build_index(dated, output, kind=kind, overwrite=True)  # type: ignore[arg-type]
        assert {"index.json", "fields.sqlite"} <= set(os.listdir(output))
        assert open_fields(output, dated).rows("year > 2021").tolist() == [2, 3]
    kept = (output / "fields.sqlite").stat().st_mtime_ns
    build_index(dated, output, bm25="en")
    assert (output / "fields.sqlite").stat().st_mtime_ns == kept
    # Without the table, the next filter says so, and the same command makes it again.
    (output / "fields.sqlite").unlink()
    with pytest.raises(
        StoreError, match=r"fields\.sqlite is missing, damaged, .*; build the index again with `llama2vec"
    ):
        open_fields(output, dated).rows("year > 2021")
    build_index(dated, output)
    assert open_fields(output, dated).rows("year > 2021").tolist() == [2, 3]
    # A store is filtered too, and plain passages cost nothing.
    assert open_fields(dated.path, dated).rows("year > 2021").tolist() == [2, 3]
    build_index(store, tmp_path / "plain")
    assert os.listdir(tmp_path / "plain") == ["index.json"]
    assert open_fields(tmp_path / "plain", store).rows("id = 'p2'").tolist() == [2]


def test_bm25_of_another_store_is_refused(other: VectorStore, folder: Path, tmp_path: Path) -> None:
    build_index(other, tmp_path / "others")
    (folder / "bm25").rename(tmp_path / "others" / "bm25")
    with pytest.raises(StoreError, match="bm25 was made from another store"):
        open_bm25(tmp_path / "others", other)


@pytest.mark.parametrize("key", ["kind", "store", "contract_hash"])
def test_an_index_that_lacks_a_key_is_one_line(folder: Path, key: str) -> None:
    manifest = json.loads((folder / "index.json").read_text())
    del manifest[key]
    (folder / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=rf"index\.json: {key}: field required; build the index again"):
        open_index(folder)


def test_wrong_requests_are_told_in_one_line(store: VectorStore, tmp_path: Path) -> None:
    for kind in ("annoy", ""):
        with pytest.raises(ConfigError, match=f"unknown index kind '{kind}'; choose one of exact, faiss-flat"):
            build_index(store, tmp_path / "x", kind=kind)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'klingon' is no"):
        build_index(store, tmp_path / "x", bm25="klingon")
    with pytest.raises(StoreError, match="no index at"):
        open_index(tmp_path)
    assert not (tmp_path / "x").exists()


def test_a_store_without_vectors_is_indexed_by_bm25_alone(tmp_path: Path) -> None:
    passages = [Passage(f"p{n}", text) for n, text in enumerate(TEXTS)]
    store = write_store(lambda: iter(passages), None, tmp_path / "texts", source={"corpus": "c.jsonl"})
    for kind, words in ((None, "BM25 alone can search it: pass --bm25"), ("faiss-flat", "faiss-flat needs them")):
        with pytest.raises(StoreError, match=rf"{words}; add vectors with `llama2vec encode MODEL c.jsonl"):
            build_index(store, tmp_path / "index", kind=kind)  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()
    assert build_index(store, tmp_path / "index", bm25="en") == ["bm25"]
    assert build_index(store, tmp_path / "index") == []
    opened = open_index(tmp_path / "index")
    bm25 = open_bm25(tmp_path / "index", opened.store)
    assert bm25 is not None
    assert bm25.best("wool", 2)[1].tolist() == [2, 3]
    with pytest.raises(StoreError, match="has no vectors; add them with"):
        opened.search(np.ones((1, 7), dtype=np.float32), 2)

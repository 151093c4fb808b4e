"""An export brings a collection to the state of its store, whatever the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from memory_engine import MemoryEngine
from storing import HashEncoder, write

from llama2vec.engines.engine import Engine
from llama2vec.errors import EngineError, StoreError
from llama2vec.records import Passage, Place
from llama2vec.retrieve.export import collection
from llama2vec.retrieve.export.collection import Exported, export_store, named
from llama2vec.retrieve.store.reader import VectorStore, store_sha256
from llama2vec.retrieve.store.writer import write_store


def store_of(folder: Path, passages: list[Passage], encoder: HashEncoder | None = None) -> VectorStore:
    return write_store(
        lambda: passages, encoder or HashEncoder(), folder, source={"corpus": "some", "place": "/some"}, shard_size=4
    )


def some(count: int, first: int = 0) -> list[Passage]:
    return [Passage(f"p{n}", f"llama number {n}", "", None, {"year": n}) for n in range(first, first + count)]


def test_a_collection_gets_everything_and_then_nothing(tmp_path: Path) -> None:
    store, engine = write(tmp_path / "store"), MemoryEngine()
    assert isinstance(engine, Engine)
    assert export_store(store, engine) == Exported(10, 0, 0)
    assert [one.passage for one in engine.entries.values()] == store.passages(range(10))
    assert np.array_equal([one.vector for one in engine.entries.values()], store.vectors(range(10)))
    about = engine.about()
    assert about is not None
    assert (about.contract_hash, about.mirrors) == (store.contract_hash, store_sha256(store))
    written = list(engine.written)
    assert export_store(store, engine) == Exported(0, 10, 0)
    assert engine.written == written


def test_only_what_changed_is_written_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    engine = MemoryEngine()
    export_store(store_of(tmp_path / "first", some(10)), engine)
    place = Place("a.md", 0, 4)
    changed = [*some(6, first=2)[:-1], Passage("p7", "llama number 7", "", place), Passage("new", "alpaca")]
    second = store_of(tmp_path / "second", changed)
    assert export_store(second, engine) == Exported(2, 5, 4)
    assert {one: entry.passage for one, entry in engine.entries.items()} == {one.id: one for one in changed}
    # While it changes, the collection says that it equals no store.
    assert engine.states[-2] == ""


def test_a_failure_is_one_line_and_the_next_call_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_BATCH_PASSAGES", 3)
    store, engine = write(tmp_path / "store"), MemoryEngine()
    engine.fails_after = 2
    with pytest.raises(EngineError, match=r"in memory: connection reset by https://me:\*\*\*@host; .* continues"):
        export_store(store, engine)
    assert (engine.written, engine.states[-1]) == ([3, 3], "")
    engine.fails_after = None
    assert export_store(store, engine) == Exported(4, 6, 0)
    assert engine.states[-1] == store_sha256(store)


def test_batches_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_BATCH_BYTES", 600)
    large = [Passage("long", "x" * 1000), Passage("wide", "世" * 250), Passage("titled", "x", "y" * 1000)]
    described = Passage("described", "x", fields={"summary": "y" * 1000})
    engine = MemoryEngine()
    export_store(store_of(tmp_path / "store", [*some(4), *large, described, *some(1, 9)]), engine)
    assert engine.written == [4, 1, 1, 1, 1, 1]


def test_an_engine_is_told_how_many_words_a_passage_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, told = MemoryEngine(), list[int]()
    monkeypatch.setattr(engine, "why_not", lambda passage, words: told.append(words))
    passages = [Passage("1", "llama llama"), Passage("2", "alpaca, river and bridge")]
    export_store(store_of(tmp_path / "store", passages), engine, language="en")
    assert told == [1, 3]


def test_words_are_written_where_the_engine_takes_their_vectors(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", some(4))
    engine, own = MemoryEngine(), MemoryEngine(has_bm25=True)
    export_store(store, engine, language="en")
    export_store(store, own, language="en")
    assert {len(one.words) for one in engine.entries.values()} == {2}
    assert {len(one.words) for one in own.entries.values()} == {0}
    assert engine.entries["p1"].digest != own.entries["p1"].digest


def test_collections_of_others_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    engine = MemoryEngine()
    export_store(store_of(tmp_path / "store", some(4)), engine)
    before = dict(engine.entries), engine.content
    other = store_of(tmp_path / "other", some(4), HashEncoder("decade"))
    with pytest.raises(EngineError, match="holds vectors of contract c0ffee, and the store was encoded under decade;"):
        export_store(other, engine)
    with pytest.raises(EngineError, match="with no words; leave out --bm25, choose another --collection"):
        export_store(store_of(tmp_path / "words", some(4)), engine, language="en")
    old = MemoryEngine()
    export_store(store_of(tmp_path / "german", some(4)), old, language="de")
    old.content = old.content.replace('"de"', '"deu"')
    with pytest.raises(
        EngineError, match="its words are neither stemmed nor without stop words, choose another --coll"
    ):
        export_store(store_of(tmp_path / "german", some(4)), old, language="de")
    far = store_of(tmp_path / "far", some(5, first=3))
    gone = r"holds 4 passages, 3 of which are no longer in .*far; pass --overwrite to delete those 3"
    with pytest.raises(EngineError, match=gone):
        export_store(far, engine)
    assert (dict(engine.entries), engine.content) == before
    assert export_store(far, engine, replace=True) == Exported(4, 1, 3)
    engine.content = '{"made by": "another program"}'
    with pytest.raises(EngineError, match="was not made by this version of `llama2vec export`"):
        export_store(far, engine)


def test_a_collection_of_another_corpus_is_replaced_only_on_request(tmp_path: Path) -> None:
    first, second = (
        write_store(lambda: some(4), HashEncoder(), tmp_path / name, source={"corpus": name}) for name in ("a", "b")
    )
    engine = MemoryEngine()
    export_store(first, engine)
    before = engine.content
    with pytest.raises(EngineError, match=r"of another corpus \(a-\w{8}\); choose another --collection, or pass"):
        export_store(second, engine)
    assert engine.content == before
    assert export_store(second, engine, replace=True) == Exported(0, 4, 0)
    about = engine.about()
    assert about is not None
    assert about.corpus == "-".join(named(second))


def test_a_store_that_was_moved_is_still_the_one_that_its_collection_mirrors(tmp_path: Path) -> None:
    store, engine = write(tmp_path / "store", source={"corpus": "texts"}), MemoryEngine()
    export_store(store, engine)
    store.path.rename(tmp_path / "moved")
    moved = VectorStore.open(tmp_path / "moved")
    assert named(moved) != named(store)
    assert export_store(moved, engine) == Exported(0, 10, 0)


def test_a_collection_of_an_earlier_version_learns_its_corpus(tmp_path: Path) -> None:
    store, engine = write(tmp_path / "store"), MemoryEngine()
    export_store(store, engine)
    about = engine.about()
    assert about is not None
    engine.content = about.model_copy(update={"corpus": ""}).model_dump_json()
    assert export_store(store, engine) == Exported(0, 10, 0)
    assert engine.about() == about


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (({"corpus": "資料/メモ.jsonl"}, {"corpus": "資料/日記.jsonl"}), "texts"),
        (({"corpus": "v1.2-notes.jsonl"}, {"corpus": "v1.3-notes.jsonl"}), None),
        (({"corpus": "a/corpus.jsonl"}, {"corpus": "b/corpus.jsonl"}), "corpus"),
        (({"corpus": "hf:me/data"}, {"corpus": "hf:you/data"}), "data"),
        (({"corpus": "texts"}, {"corpus": "texts"}), "texts"),
        (({"folder": "/home/a/notes"}, {"folder": "/home/b/notes"}), "notes"),
        (({"corpus": "a.pdf", "folder": "/docs"}, {"corpus": "b.pdf", "folder": "/docs"}), None),
    ],
)
def test_corpora_that_differ_have_names_that_differ(
    tmp_path: Path, sources: tuple[dict[str, object], dict[str, object]], name: str | None
) -> None:
    first, second = (write(tmp_path / str(n), source=source) for n, source in enumerate(sources))
    assert named(first) != named(second)
    assert named(first) == named(VectorStore.open(first.path))
    if name:
        assert named(first)[0] == named(second)[0] == name


def test_a_corpus_keeps_its_name_in_another_store_and_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "corpus.jsonl")
    relative, absolute, earlier = (
        write(tmp_path / f"{n}", source=source)
        for n, source in enumerate(
            [{"corpus": "corpus.jsonl", "place": place}, {"corpus": place, "place": place}, {"corpus": "corpus.jsonl"}]
        )
    )
    assert named(relative) == named(absolute)
    # Wherever the program runs, and whether or not the file is still there.
    found = named(earlier)
    (tmp_path / "corpus.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    assert (named(relative), named(earlier)) == (named(absolute), found)


def test_what_an_engine_cannot_hold_is_said_before_anything_is_written(tmp_path: Path) -> None:
    engine = MemoryEngine()
    engine.refused = "p3"
    with pytest.raises(EngineError, match=r"cannot hold passage 'p3' of .*: it is refused; change that passage"):
        export_store(store_of(tmp_path / "store", some(4)), engine)
    assert engine.content is None
    with pytest.raises(EngineError, match="holds a NUL character"):
        export_store(store_of(tmp_path / "nul", [Passage("a\0b", "text")]), engine)


def test_characters_that_engines_refuse_are_replaced_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = MemoryEngine()
    export_store(store_of(tmp_path / "store", [Passage("1", "a\0b"), Passage("2", "plain")]), engine)
    assert engine.entries["1"].passage.text == "a\ufffdb"
    assert "characters that no engine takes become U+FFFD there, in 1 passage" in caplog.text


def test_a_collection_that_someone_else_fills_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MemoryEngine()
    monkeypatch.setattr(engine, "count", lambda: 7)
    with pytest.raises(EngineError, match="holds 7 passages instead of 4; export again"):
        export_store(store_of(tmp_path / "store", some(4)), engine)
    assert engine.states[-1] == ""


def test_a_store_without_vectors_is_refused(tmp_path: Path) -> None:
    store = write_store(lambda: some(2), None, tmp_path / "store", source={})
    with pytest.raises(StoreError, match="has no vectors"):
        export_store(store, MemoryEngine())

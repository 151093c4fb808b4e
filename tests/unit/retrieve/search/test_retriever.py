"""Searching one corpus by vectors, by words, and by both together."""

from __future__ import annotations

import logging
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_encoder import CountingEncoder

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError, DataError, FilterError, OutputExistsError, StoreError
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Place, Query
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import Fusion, Mode, min_max_fusion, reciprocal_rank_fusion
from llama2vec.retrieve.search.opened import check_contract
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store

TEXTS = (
    *("llama andes", "camel desert", "sheep wool", "llama camel"),
    *("llama llama wool", "zebra", "", "wool wool camel desert"),
)
QUERIES = [Query("a", "llama wool"), Query("b", "desert"), Query("c", "andes sheep camel"), Query("d", "unknown")]


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    passages = [Passage(f"p{n}", text) for n, text in enumerate(TEXTS)]
    return write_store(lambda: iter(passages), CountingEncoder(), tmp_path / "store", source={}, shard_size=3)


@pytest.fixture
def folder(store: VectorStore, tmp_path: Path) -> Path:
    build_index(store, tmp_path / "index", bm25="en")
    return tmp_path / "index"


@pytest.fixture
def encoder(llama_folder: Path) -> Encoder:
    settings = ModelSettings(dtype="float32", device="cpu")
    return Encoder.load(llama_folder, settings=settings, encoder=EncoderSettings(passage_max_tokens=48))


def test_an_index_offers_the_modes_that_it_carries(store: VectorStore, folder: Path, tmp_path: Path) -> None:
    assert Retriever.open(folder, CountingEncoder()).modes == ("hybrid", "dense", "bm25")
    assert Retriever.open(store.path, CountingEncoder()).modes == ("dense",)
    build_index(store, tmp_path / "old")
    opened = Retriever.open(tmp_path / "old", CountingEncoder())
    assert opened.modes == ("dense",)
    assert Retriever(opened.index, None, bm25=Bm25Index.build(store.passages(range(8)))).modes == ("bm25",)


def test_dense_ranks_by_cosine_and_bm25_as_its_index_does(store: VectorStore, folder: Path) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    run = retriever.search(QUERIES, "dense", depth=3)
    assert (run.tag, list(run.results)) == ("dense", ["a", "b", "c", "d"])
    assert list(run.results["a"]) == ["p4", "p7", "p0"]
    assert run.results["a"]["p0"] == pytest.approx(0.5)
    bm25 = Bm25Index.build(store.passages(range(len(store)))).search(QUERIES, depth=4)
    found = retriever.search(QUERIES, "bm25", depth=4, tag="words")
    assert found.tag == "words"
    for query, scores in bm25.results.items():
        assert list(found.results[query]) == list(scores)
        assert found.results[query] == pytest.approx(scores)


def test_hybrid_fuses_the_two_by_weight_and_method(folder: Path) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    runs = [retriever.search(QUERIES, mode, depth=100) for mode in ("dense", "bm25")]

    def weighted(fusion: Fusion) -> object:
        return Retriever.open(folder, CountingEncoder(), fusion=fusion).search(QUERIES, "hybrid", depth=3).results

    expected = min_max_fusion(runs, lexical=[False, True], depth=3).results
    assert retriever.search(QUERIES, depth=3).results == weighted(Fusion()) == expected
    tripled = min_max_fusion(runs, weights=[1, 3], lexical=[False, True], depth=3).results
    assert weighted(Fusion("min-max", {"bm25": 3})) == tripled
    assert weighted(Fusion("rrf")) == reciprocal_rank_fusion(runs, depth=3).results
    assert list(weighted(Fusion(weights={"dense": 0}))) == list(runs[1].results)  # type: ignore[call-overload]


def test_the_default_is_hybrid_where_there_is_bm25_and_dense_elsewhere(folder: Path, store: VectorStore) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    assert retriever.search(QUERIES).tag == "hybrid"
    assert retriever.hits("llama wool") == retriever.hits("llama wool", "hybrid")
    assert Retriever.open(store.path, CountingEncoder()).search(QUERIES).tag == "dense"


def test_the_first_ranks_do_not_depend_on_the_depth(folder: Path) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    for mode in retriever.modes:
        deep = retriever.search(QUERIES, mode, depth=10**12).results
        shallow = retriever.search(QUERIES, mode, depth=2).results
        for query, scores in deep.items():
            assert list(scores.items())[:2] == list(shallow[query].items())


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_hits_are_the_run_with_texts(folder: Path, mode: str) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    hits = retriever.hits("llama wool", mode, depth=3)  # type: ignore[arg-type]
    run = retriever.search([Query("a", "llama wool")], mode, depth=3)  # type: ignore[arg-type]
    assert {hit.passage.id: hit.score for hit in hits} == run.results["a"]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert all(TEXTS[int(hit.passage.id[1:])] == hit.passage.text for hit in hits)


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_a_filter_restricts_every_mode(folder: Path, mode: str) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    everything = retriever.search(QUERIES, mode, 100)  # type: ignore[arg-type]
    some = retriever.search(QUERIES, mode, 100, where="id in ('p0', 'p3', 'p7')", tag="some")  # type: ignore[arg-type]
    assert some.tag == "some"
    for query, scores in everything.results.items():
        expected = [passage for passage in scores if passage in ("p0", "p3", "p7")]
        assert sorted(some.results[query]) == sorted(expected)
    hits = retriever.hits("llama wool", mode, 3, where="id >= 'p6'")  # type: ignore[arg-type]
    assert {hit.passage.id for hit in hits} <= {"p6", "p7"}
    assert retriever.hits("llama wool", mode, 3, where="id = 'p99'") == []  # type: ignore[arg-type]
    with pytest.raises(FilterError, match="unknown field 'yaer'"):
        retriever.hits("llama", mode, where="yaer > 3")  # type: ignore[arg-type]


def test_a_question_without_a_known_word_has_no_bm25_hits_and_no_queries_give_an_empty_run(folder: Path) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    assert retriever.hits("unknown", "bm25") == []
    for mode in retriever.modes:
        assert retriever.search([], mode).results == {}


def test_a_passage_that_bm25_alone_finds_ranks_first(tmp_path: Path) -> None:
    # 1,500 passages resemble the question more than the only one with the error code.
    passages = [Passage(f"p{number:04d}", "llama camel") for number in range(1500)]
    passages.append(Passage("zz", "zebra E1234"))
    store = write_store(lambda: iter(passages), CountingEncoder(), tmp_path / "store", source={})
    build_index(store, tmp_path / "index", bm25="en")
    retriever = Retriever.open(tmp_path / "index", CountingEncoder())
    best = retriever.hits("E1234 of which beast", "hybrid", 3)
    assert best[0].passage.id == "zz"
    assert best[0].score > 0.5 >= best[1].score
    # Where nothing shares a word, the vectors decide alone.
    unknown = retriever.search([Query("q", "quagga")], "hybrid", 3).results["q"]
    assert list(unknown) == list(retriever.search([Query("q", "quagga")], "dense", 3).results["q"])


def test_a_mode_that_is_missing_names_what_adds_it(store: VectorStore, folder: Path, tmp_path: Path) -> None:
    build_index(store, tmp_path / "plain")
    retriever = Retriever.open(tmp_path / "plain", CountingEncoder())
    for mode in ("bm25", "hybrid"):
        with pytest.raises(StoreError, match=rf"by {mode}, only by dense; add it: `llama2vec index .* --bm25`"):
            retriever.search(QUERIES, mode)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown search mode 'sparse'; choose one of dense, bm25, hybrid"):
        retriever.check_mode("sparse")
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        retriever.search(QUERIES, "dense", depth=0)
    words_only = Retriever(retriever.index, None, bm25=Bm25Index.build(store.passages(range(8))))
    with pytest.raises(StoreError, match="cannot be searched by dense, only by bm25; give the model"):
        words_only.search(QUERIES, "dense")
    with pytest.raises(StoreError, match="encoded under contract c0ffee and the query model has beef"):
        Retriever.open(folder, CountingEncoder("beef"))


def test_a_store_that_is_rewritten_under_an_open_index_is_noticed(store: VectorStore, folder: Path) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    retriever.check_unchanged()
    passages = [Passage(f"p{n}", "zebra") for n in range(5)]
    write_store(lambda: iter(passages), CountingEncoder(), store.path, source={"new": 1}, shard_size=3, overwrite=True)
    for search in (
        lambda: retriever.hits("llama", "dense"),
        lambda: retriever.hits("llama", "bm25"),
        lambda: retriever.search(QUERIES, "hybrid"),
        retriever.check_unchanged,
    ):
        with pytest.raises(StoreError, match="was rewritten or removed after it was opened, and the index cannot"):
            search()
    with pytest.raises(StoreError, match="built from other vectors"):
        Retriever.open(folder, CountingEncoder())


def test_five_lines_lead_from_texts_to_hits(encoder: Encoder) -> None:
    texts = ["The river is wide.", "A stone bridge.", "The castle in winter."]
    retriever = Retriever.from_texts(texts, encoder)
    hits = retriever.hits("stone bridge", depth=2)
    assert (hits[0].passage.id, hits[0].passage.text) == ("1", "A stone bridge.")
    assert retriever.modes == ("hybrid", "dense", "bm25")
    temporary = retriever.store.path
    del retriever, hits
    assert not temporary.exists()


def test_texts_are_kept_in_a_folder_which_names_its_model(encoder: Encoder, llama_folder: Path, tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "The river is wide.", "title": "River"}, {"_id": "b", "text": "A stone bridge."}]
    made = Retriever.from_texts(rows, encoder, tmp_path / "kept")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    opened = Retriever.open(tmp_path / "kept", device="cpu", dtype="float32")
    assert opened.hits("wide river") == made.hits("wide river")
    assert opened.store.passage(0) == Passage("a", "The river is wide.", "River")
    # The same call finds its own work; other texts are refused.
    Retriever.from_texts(rows, encoder, tmp_path / "kept")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises((OutputExistsError, StoreError), match="--overwrite"):
        Retriever.from_texts(["other"], encoder, tmp_path / "kept")
    again = Retriever.from_texts(["other"], encoder, tmp_path / "kept", overwrite=True)
    assert [len(again.store), len(again.hits("other"))] == [1, 1]
    with pytest.raises(DataError, match="is of type NoneType"):
        Retriever.from_texts(["a", None], encoder)  # type: ignore[list-item]


def test_without_a_language_a_folder_that_has_bm25_is_refused_or_loses_it(encoder: Encoder, tmp_path: Path) -> None:
    build = partial(Retriever.from_texts, ["The river is wide.", "A stone bridge."], encoder)
    assert build(tmp_path / "new", language=None).modes == ("dense",)
    assert build(tmp_path / "kept").modes == ("hybrid", "dense", "bm25")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        build(tmp_path / "kept", language=None)
    made = build(tmp_path / "kept", language=None, overwrite=True)
    assert made.modes == Retriever.open(tmp_path / "kept", encoder).modes == ("dense",)
    assert build(tmp_path / "kept", language="en").modes == ("hybrid", "dense", "bm25")


def test_what_cannot_be_searched_is_one_line(encoder: Encoder, tmp_path: Path) -> None:
    retriever = Retriever.from_texts(["A stone bridge.", "A river."], encoder, tmp_path / "kept")
    with pytest.raises(DataError, match="query 0 is of type str; give Query objects"):
        retriever.search(["river"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="the question is of type list; give one string"):
        retriever.hits(["river"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="split is of type int; give split=PassageSettings"):
        Retriever.from_texts(["A river."], encoder, split=64)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="language is False; give an ISO 639 code such as 'en', or None"):
        Retriever.from_texts(["A river."], encoder, language=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^ModelSettings: dtype: .*got 'fp16'"):
        Retriever.open(tmp_path / "kept" / "index", dtype="fp16")


def test_two_queries_of_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="queries 0 and 2 share the id 'q'; make ids unique"):
        Retriever.from_texts(list(TEXTS), None).search([Query("q", "a"), Query("r", "b"), Query("q", "c")])


def test_long_texts_are_split_on_request_and_counted_otherwise(
    encoder: Encoder, sentences: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    most = encoder.reading("passage")[1]
    long = " ".join(sentences * (1 + most // 200)) + " The llama hums at the end."
    rows = [{"id": "long", "text": long, "title": "Book", "year": 2020}, {"id": "short", "text": "A stone bridge."}]
    whole = Retriever.from_texts(rows, encoder)
    assert "the model reads only the beginning of 1 of 2 passages (50 %)" in caplog.text
    assert "split=PassageSettings()" in caplog.text
    assert len(whole.store) == 2
    caplog.clear()
    split = Retriever.from_texts(rows, encoder, split=PassageSettings(tokens=40))
    assert "reads only the beginning" not in caplog.text
    hit = split.hits("llama hums", "bm25")[0].passage
    assert (hit.title, hit.fields, hit.id.partition("#")[0]) == ("Book", {"year": 2020}, "long")
    assert hit.place is not None
    assert long[hit.place.begin : hit.place.end] == hit.text
    assert split.store.passage(len(split.store) - 1) == Passage("short", "A stone bridge.")
    words = Retriever.from_texts(rows, None, split=PassageSettings(tokens=40))
    assert len(words.store) > 2
    signs = Retriever.from_texts(["羊驼生活在山上。" * 40], None, language="zh", split=PassageSettings(tokens=40))
    assert len(signs.store) > 6


def test_bm25_never_loads_the_model_that_the_store_names(encoder: Encoder, tmp_path: Path) -> None:
    made = Retriever.from_texts(["The river is wide.", "A stone bridge."], encoder, tmp_path / "kept")
    manifest = tmp_path / "kept" / "store" / "store.json"
    assert "model" in manifest.read_text(encoding="utf-8")
    opened = Retriever.open(tmp_path / "kept", tmp_path / "nowhere")
    assert [hit.passage for hit in opened.hits("river", "bm25")] == [hit.passage for hit in made.hits("river", "bm25")]
    with pytest.raises(Exception, match="nowhere"):
        opened.hits("river", "dense")
    assert os.listdir(tmp_path) == ["kept"]


def test_without_vectors_bm25_alone_answers_and_one_line_says_how_to_add_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = [Passage(f"p{n}", text) for n, text in enumerate(TEXTS)]
    store = write_store(lambda: iter(passages), None, tmp_path / "store", source={"corpus": "c.jsonl"})
    bare = Retriever.open(store.path)
    assert (bare.modes, bare.default_mode) == ((), "bm25")
    with pytest.raises(StoreError, match=r"cannot be searched by bm25, only by nothing; add it: `llama2vec index"):
        bare.search(QUERIES)
    build_index(store, tmp_path / "index", bm25="en")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        opened = Retriever.open(tmp_path / "index", "a model that is not needed")
    how = f"`llama2vec encode MODEL c.jsonl -o {store.path} --overwrite`"
    assert caplog.messages == [f"{store.path} has no vectors, so it is searched with BM25 only; add them with {how}"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Retriever.open(tmp_path / "index", by_words=True)
    assert caplog.messages == []
    assert opened.modes == Retriever.open(tmp_path / "index", CountingEncoder()).modes == ("bm25",)
    assert [hit.passage.id for hit in opened.hits("llama wool")][:1] == ["p4"]
    with pytest.raises(StoreError, match="cannot be searched by hybrid, only by bm25; add vectors: `llama2vec encode"):
        opened.search(QUERIES, "hybrid")
    with pytest.raises(StoreError, match="has no vectors; add them"):
        check_contract(store, CountingEncoder())


def test_texts_without_a_model_are_searched_by_bm25(tmp_path: Path) -> None:
    retriever = Retriever.from_texts(list(TEXTS), None, tmp_path / "kept")
    assert retriever.modes == Retriever.open(tmp_path / "kept").modes == ("bm25",)
    assert retriever.hits("sheep")[0].passage.id == "2"
    with pytest.raises(ConfigError, match="nothing can be searched"):
        Retriever.from_texts(list(TEXTS), None, language=None)


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_hits_are_grouped_by_document_however_many_passages_one_has(
    tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 200 passages of one document are better than any of the others.
    texts = [("big.md", "llama llama")] * 200 + [(f"{n}.md", "llama camel") for n in range(3)] + [("", "llama zebra")]
    passages = [
        Passage(f"p{n}", text, place=Place(document, n, n + 1) if document else None)
        for n, (document, text) in enumerate(texts)
    ]
    encoder = CountingEncoder()
    store = write_store(lambda: passages, encoder, tmp_path / "store", source={})
    build_index(store, tmp_path / "index", bm25="en")
    retriever = Retriever.open(tmp_path / "index", encoder)
    asked: list[int] = []
    monkeypatch.setattr(encoder, "encode_queries", lambda queries: asked.append(1) or encoder._vectors(["llama"]))
    found = retriever.hits("llama", mode, 4, group=True)
    assert [(hit.rank, hit.passage.id) for hit in found] == [(1, "p0"), (2, "p200"), (3, "p201"), (4, "p202")]
    assert len(found[0].more) == 49  # of the first 50 passages, however deep the search had to go
    assert found[0].more[0].passage.id == "p1"
    assert [hit.row for hit in found] == [0, 200, 201, 202]
    assert [hit.passage.id for hit in retriever.hits("llama", mode, 1, group=True)] == ["p0"]
    assert len(retriever.hits("llama", mode, 10, group=True)) == 5
    assert len(asked) == (0 if mode == "bm25" else 3)
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        retriever.hits("llama", mode, 0, group=True)


def test_the_best_documents_do_not_depend_on_how_many_are_asked_for(tmp_path: Path) -> None:
    # The passages of the book are more than the fusion compares, so the search for further documents goes deeper.
    draw = random.Random(0)
    words = ["llama", "andes", "camel", "desert", "sheep", "wool", *(f"word{number}" for number in range(30))]
    documents = ["book.txt"] * 1500 + [f"{number % 6}.txt" for number in range(12)]
    passages = [
        Passage(f"p{number}", " ".join(draw.choices(words, k=9)), place=Place(document, number, number + 1))
        for number, document in enumerate(documents)
    ]
    store = write_store(lambda: passages, CountingEncoder(), tmp_path / "store", source={})
    build_index(store, tmp_path / "index", bm25="en")
    retriever = Retriever.open(tmp_path / "index", CountingEncoder())
    for _ in range(15):
        question = " ".join(draw.choices(words[:6], k=3))
        for mode in retriever.modes:
            deep = retriever.hits(question, mode, 5, group=True)
            assert retriever.hits(question, mode, 1, group=True)[0] == deep[0]
            assert retriever.hits(question, mode, 3, group=True) == deep[:3]
            assert mode != "hybrid" or all(0 <= hit.score <= 1 for hit in deep)


def test_queries_that_the_model_cuts_are_counted_once_a_call(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = EncoderSettings(query_max_tokens=8)
    encoder = Encoder.load(llama_folder, settings=ModelSettings(dtype="float32", device="cpu"), encoder=short)
    made = Retriever.from_texts(["The river is wide.", "A stone bridge."], encoder, tmp_path / "kept")
    opened = Retriever.open(tmp_path / "kept", device="cpu", dtype="float32")
    queries = [Query("long", "the river and the castle " * 20), Query("short", "river")]
    for retriever in (made, opened):
        caplog.clear()
        retriever.search(queries)
        retriever.search(queries, "bm25")
        retriever.search(queries, "dense", warns=False)
        retriever.hits("river")
        assert caplog.messages == [
            "the model reads only the beginning of 1 of 2 queries (50 %), and the rest of each after 8 tokens is not "
            "in its vector; encode the corpus with a larger query_max_tokens"
        ]
        caplog.clear()
        retriever.hits(queries[0].text, "dense", group=True)
        assert [line.partition(",")[0] for line in caplog.messages] == [
            "the model reads only the beginning of the query"
        ]
    saved = encoder.save(tmp_path / "saved")
    caplog.clear()
    Retriever.from_texts(["The river is wide."], saved, device="cpu", dtype="float32").search(queries, "dense")
    assert caplog.messages[-1].endswith("the model cannot read more, so shorten them")


@pytest.mark.parametrize("depth", ["3", 1.5, True, None])
def test_a_depth_that_is_no_number_of_passages_is_refused(folder: Path, depth: Any) -> None:
    retriever = Retriever.open(folder, CountingEncoder())
    for group in (False, True):
        with pytest.raises(ConfigError, match="the depth must be a whole number, not"):
            retriever.hits("river", depth=depth, group=group)
    with pytest.raises(ConfigError, match="the depth must be a whole number, not"):
        retriever.search(QUERIES, depth=depth)
    with pytest.raises(ConfigError, match="the depth must be a whole number, not"):
        retriever.index.search(np.ones((1, retriever.store.dimension), np.float32), depth)

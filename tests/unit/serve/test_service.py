"""Search over HTTP, in every mode of the index."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from service_stand_ins import PASSAGES, Running, StandInSearcher, StandInTable, Start, TwoSided, wait_until
from synced_folder import HashEncoder, sync, write

from llama2vec.errors import EngineError, ModelNotFoundError, StoreError
from llama2vec.records import Passage
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.search.hits import Hit
from llama2vec.retrieve.search.opened import OpenedIndex
from llama2vec.retrieve.search.query_table import QueryTable
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.writer import write_store
from llama2vec.serve.batcher import Lengths
from llama2vec.serve.loaded import Loaded, PreparedQuery, ServedModel


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_mode_answers_with_ranked_passages(shared_service: Running, mode: str, method: str) -> None:
    asked = {"q": "Amazon llama", "mode": mode, "depth": 2}
    given = {"params": asked} if method == "GET" else {"json": asked}
    answer = shared_service.client.request(method, "/search", **given).json()
    assert {name: answer[name] for name in ("query", "mode", "modes")} == {
        "query": "Amazon llama", "mode": mode, "modes": ["dense", "bm25", "hybrid"],
    }  # fmt: skip
    assert answer["took_ms"] >= 0
    expected = [PASSAGES[2], PASSAGES[0]] if mode == "dense" else [PASSAGES[0], PASSAGES[2]]
    assert [(hit["rank"], hit["id"], hit["title"], hit["text"]) for hit in answer["hits"]] == [
        (rank, passage.id, passage.title, passage.text) for rank, passage in enumerate(expected, start=1)
    ]
    # The vector modes got the vector of this very question.
    assert answer["hits"][0]["score"] == pytest.approx(12.5 if mode == "bm25" else 1.0, abs=1e-6)


def test_a_long_passage_is_shown_by_the_part_that_answers(shared_service: Running) -> None:
    (hit,) = shared_service.client.get("/search", params={"q": "where is the condor", "depth": 1}).json()["hits"]
    assert hit["id"] == "birds/1"
    assert hit["snippet"].startswith("…")
    assert "condor" in hit["snippet"]
    assert len(hit["snippet"]) < len(hit["text"])


def test_the_first_mode_and_ten_passages_are_the_default(service: Running) -> None:
    answer = service.client.get("/search", params={"q": "llama"}).json()
    assert answer["mode"] == "dense"
    assert service.searcher.asked == [("llama", "dense")]


def test_a_question_without_answer_gives_an_empty_list(shared_service: Running) -> None:
    answer = shared_service.client.get("/search", params={"q": "zeppelin"})
    assert (answer.status_code, answer.json()["hits"]) == (200, [])


def test_word_search_does_not_ask_the_model(service: Running) -> None:
    service.client.get("/search", params={"q": "llama", "mode": "bm25"})
    assert service.encoder.calls == []
    service.client.get("/search", params={"q": "llama", "mode": "dense"})
    assert service.encoder.calls == [("query", ["llama"])]


def test_a_quick_search_asks_the_table_and_says_so(start: Start) -> None:
    table = StandInTable()
    service = start(table=table)
    assert service.client.get("/healthz").json()["quick"] is True
    quick = service.client.get("/search", params={"q": "llama", "mode": "dense", "quick": True}).json()
    assert (quick["quick"], quick["encode_ms"], table.asked, service.encoder.calls) == (True, None, ["llama"], [])
    slow = service.client.get("/search", params={"q": "llama", "mode": "dense"}).json()
    assert (slow["quick"], table.asked, service.encoder.calls) == (False, ["llama"], [("query", ["llama"])])
    assert slow["encode_ms"] is not None
    # The vector of the table reached the search, as the model's did.
    assert quick["hits"] == slow["hits"]
    assert quick["hits"][0]["score"] == pytest.approx(1, abs=1e-6)
    words = service.client.get("/search", params={"q": "llama", "mode": "bm25", "quick": True}).json()
    assert (words["quick"], table.asked) == (False, ["llama"])


def test_without_a_table_a_quick_search_asks_the_model(service: Running) -> None:
    assert service.client.get("/healthz").json()["quick"] is False
    answer = service.client.get("/search", params={"q": "llama", "quick": True}).json()
    assert (answer["quick"], service.encoder.calls) == (False, [("query", ["llama"])])


class HashTable(HashEncoder):
    """Encodes questions as :class:`HashEncoder` encodes passages."""

    def encode_queries(self, queries: Sequence[Any], /) -> npt.NDArray[np.float32]:
        return self._vectors(list(queries))


def test_a_table_answers_instead_of_a_model(start: Start, tmp_path: Path) -> None:
    passages = [Passage(f"p{row}", text) for row, text in enumerate(("llama", "river"))]
    table = cast(QueryTable, HashTable())
    store = write_store(lambda: iter(passages), HashEncoder(), tmp_path / "store", source={})
    build_index(tmp_path / "store", tmp_path / "index", bm25="en")
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(tmp_path / "index"), table))
    health = service.client.get("/healthz").json()
    assert (health["modes"], health["quick"]) == (["hybrid", "dense", "bm25"], True)
    answer = service.client.get("/search", params={"q": "river", "mode": "dense"}).json()
    assert (answer["quick"], answer["hits"][0]["id"], answer["encode_ms"]) == (False, "p1", None)
    assert service.client.post("/v1/embeddings", json={"input": "river"}).status_code == 404
    refused = service.client.get("/explain", params={"q": "river", "row": 1})
    assert (refused.status_code, "only a model can explain" in refused.text) == (400, True)
    with pytest.raises(StoreError, match="was encoded under contract"):
        Loaded.with_index(None, Retriever.open(store.path), cast(QueryTable, HashTable("another")))


@pytest.mark.parametrize("written", ['"\\ud800"', '"year >= \\udfff"'])
def test_half_a_surrogate_pair_in_a_filter_is_the_clients_mistake(shared_service: Running, written: str) -> None:
    body = f'{{"q": "llama", "where": {written}}}'
    answer = shared_service.client.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "where")
    assert "holds half of a surrogate pair; remove it" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({}, "q", "required"),
        ({"q": ""}, "q", "at least 1 character"),
        ({"q": "llama", "mode": "fuzzy"}, "mode", "'dense', 'bm25' or 'hybrid'"),
        ({"q": "llama", "depth": 0}, "depth", "greater than or equal to 1"),
        ({"q": "llama", "depth": 101}, "depth", "must be at most 100, or start the service with a larger --max-depth"),
        ({"q": "llama", "depth": "many"}, "depth", "valid integer"),
        ({"q": "llama", "deep": 3}, "deep", "unknown field 'deep'; did you mean 'depth'?"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_search_that_does_not_fit_is_told_which_field_and_why(
    shared_service: Running, method: str, asked: dict[str, object], param: str, message: str
) -> None:
    given = {"params": asked} if method == "GET" else {"json": asked}
    answer = shared_service.client.request(method, "/search", **given)  # type: ignore[arg-type]
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]


def test_a_wrong_method_is_told_the_right_ones(shared_service: Running) -> None:
    answer = shared_service.client.delete("/search")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_without_an_index_there_is_neither_search_nor_page(start: Start) -> None:
    service = start(with_search=False)
    assert service.client.post("/v1/embeddings", json={"input": "llama"}).status_code == 200
    for path in ("/", "/search?q=llama", "/page/page.js"):
        assert service.client.get(path).status_code == 404
    assert "/search" not in service.client.get("/openapi.json").json()["paths"]


def test_a_mode_that_the_index_lacks_is_refused_and_not_replaced(start: Start) -> None:
    query = PreparedQuery("c0ffee")
    searcher = StandInSearcher(query)
    searcher.modes = ("dense",)
    service = start(searcher=searcher, query=query)
    answer = service.client.get("/search", params={"q": "llama", "mode": "bm25"})
    assert answer.status_code == 400
    assert "mode: this index cannot be searched by bm25; choose from dense" in answer.json()["error"]["message"]
    assert searcher.asked == []


def test_an_index_without_vectors_is_served_without_a_model(start: Start, tmp_path: Path) -> None:
    store = write_store(lambda: iter(PASSAGES), None, tmp_path / "store", source={})
    build_index(store, tmp_path / "index", bm25="en")
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(tmp_path / "index")))
    assert service.client.get("/healthz").json() == {"status": "ok", "modes": ["bm25"], "coming": [], "quick": True}
    answer = service.client.get("/search", params={"q": "soft wool"}).json()
    assert (answer["mode"], [hit["id"] for hit in answer["hits"]]) == ("bm25", ["camelids/2"])
    assert service.client.get("/search", params={"q": "wool", "mode": "dense"}).status_code == 400
    assert service.client.get("/v1/models").json()["data"] == []
    for answer in (service.client.post("/v1/embeddings", json={"input": "wool"}), service.client.get("/v1/models/x")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("first", ["/context?row=0", "/context?row=1", "/fields", "/search?q=wool"])
def test_the_first_request_after_an_index_was_replaced_is_answered_from_the_new_one(
    start: Start, tmp_path: Path, first: str
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index)
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(index)))
    (folder / "a.txt").unlink()
    write(folder, {"b.txt": "warm wool", "c.txt": "a bridge"})
    sync(folder, index)
    answer = service.client.get(first)
    assert answer.status_code == 200, answer.text
    assert "a.txt" not in answer.text


def test_while_a_replaced_index_is_opened_again_other_requests_are_answered(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index)
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(index)))
    write(folder, {"b.txt": "warm wool"})
    sync(folder, index)
    opening, go_on, open_index = threading.Event(), threading.Event(), OpenedIndex.open

    def open_slowly(path: Path) -> OpenedIndex:
        opening.set()
        assert go_on.wait(20)
        return open_index(path)

    monkeypatch.setattr(OpenedIndex, "open", open_slowly)
    try:
        # The answer is what was known before.
        assert service.client.get("/healthz").json()["status"] == "ok"
        assert opening.is_set()
        assert service.client.get("/v1/models").status_code == 200
    finally:
        go_on.set()
    assert len(service.client.get("/search", params={"q": "wool"}).json()["hits"]) == 2


def test_a_vector_database_that_is_lost_is_told_in_one_line_and_asked_again(
    service: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llama2vec.serve.service._ASK_AGAIN_SECONDS", 0.0)
    service.searcher.engine_fault = EngineError("Qdrant at /secret does not answer; start it")
    for _ in range(3):
        answer = service.client.get("/search", params={"q": "llama"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "secret" not in answer.text
    assert service.client.get("/search", params={"q": "llama", "mode": "bm25"}).status_code == 200
    health = service.client.get("/healthz")
    assert (health.status_code, health.json()["status"]) == (503, "engine_unavailable")
    assert caplog.text.count("/secret does not answer; start it") == 1
    assert "Traceback" not in caplog.text
    service.searcher.engine_fault = None
    # No search is needed for that.
    wait_until(lambda: service.client.get("/healthz").status_code == 200)


def test_an_answer_that_the_vector_database_may_not_have_given_does_not_end_its_loss(
    service: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llama2vec")
    service.searcher.engine_fault = EngineError("Qdrant does not answer")
    assert service.client.get("/search", params={"q": "llama"}).status_code == 503
    service.searcher.engine_fault = None
    monkeypatch.setattr("llama2vec.serve.service._ASKS_ENGINE", 5)
    for other in ({"where": "id != 'none'"}, {"depth": 6}, {"mode": "bm25"}):
        assert service.client.get("/search", params={"q": "llama", **other}).status_code == 200
        assert service.client.get("/healthz").json()["status"] == "engine_unavailable"
    assert service.client.get("/search", params={"q": "llama", "depth": 5}).status_code == 200
    assert service.client.get("/healthz").json()["status"] == "ok"
    assert caplog.text.count("the vector database answers again") == 1


def test_a_vector_database_that_hangs_longer_than_the_request_is_noticed(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(timeout_seconds=0.5)
    hang = threading.Event()

    def hits(*asked: Any, **how: Any) -> list[Hit]:
        assert hang.wait(20)
        raise EngineError("Qdrant does not answer")

    monkeypatch.setattr(service.searcher, "hits", hits)
    assert service.client.get("/search", params={"q": "llama"}).status_code == 504
    hang.set()
    wait_until(lambda: service.client.get("/healthz").json()["status"] == "engine_unavailable")
    assert caplog.text.count("Qdrant does not answer") == 1


def test_a_search_that_does_not_return_is_reported_until_it_does(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service, hang, hits = start(timeout_seconds=0.3), threading.Event(), StandInSearcher.hits

    def hanging(self: StandInSearcher, question: str, *asked: Any, **how: Any) -> list[Hit]:
        assert question != "stuck" or hang.wait(20)
        return hits(self, question, *asked, **how)

    monkeypatch.setattr(StandInSearcher, "hits", hanging)
    for question in ("stuck", "llama"):
        answer = service.client.get("/search", params={"q": question, "mode": "bm25"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert "searches wait for a slow one" in answer.json()["error"]["message"]
        assert "fewer texts" not in answer.text
    wait_until(lambda: service.client.get("/healthz").json()["status"] == "failing")
    assert service.client.get("/healthz").status_code == 503
    hang.set()
    wait_until(lambda: service.client.get("/healthz").status_code == 200)
    assert service.client.get("/search", params={"q": "llama", "mode": "bm25"}).status_code == 200


def test_a_service_follows_an_index_that_is_synced(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index)
    service = start(opened=lambda: Loaded.with_index(None, Retriever.open(index)))
    assert [hit["id"] for hit in service.client.get("/search", params={"q": "wool"}).json()["hits"]] == ["a.txt#1"]
    write(folder, {"b.txt": "warm wool and more"})
    sync(folder, index)
    found = service.client.get("/search", params={"q": "wool"}).json()["hits"]
    assert {hit["id"] for hit in found} == {"a.txt#1", "b.txt#1"}
    assert service.client.get("/healthz").json()["status"] == "ok"
    caplog.set_level(logging.INFO, "llama2vec")
    caplog.clear()
    (index / "store").rename(tmp_path / "away")
    for _ in range(3):
        assert service.client.get("/search", params={"q": "wool"}).status_code == 503
        assert service.client.get("/healthz").json()["status"] == "store_changed"
    # The log says what is missing; a client is told no path, and to do nothing that would not help.
    refused = service.client.get("/search", params={"q": "wool"}).json()["error"]["message"]
    assert refused == "the index was rewritten and cannot be opened again; the service's log says why, and what to mend"
    told = [message for message in caplog.messages if "searches fail until this is mended" in message]
    assert len(told) == 1
    assert "the index cannot be opened again" in told[0]
    assert str(tmp_path / "index") in told[0]
    (tmp_path / "away").rename(index / "store")
    wait_until(lambda: service.client.get("/healthz").json()["status"] == "ok")
    assert service.client.get("/search", params={"q": "wool"}).status_code == 200
    assert caplog.messages.count("the index is open again") == 1


@pytest.mark.parametrize("named", [False, True])
def test_vectors_that_come_later_are_searched_without_a_restart(start: Start, tmp_path: Path, named: bool) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool", "b.txt": "a river"}), tmp_path / "index"
    sync(folder, index)
    model, opening = cast(ServedModel, TwoSided()), threading.Event()
    opening.set()

    def opened() -> Loaded:
        retriever = Retriever.open(index)
        if not named and not retriever.store.has_vectors:
            return Loaded.with_index(None, retriever)
        assert opening.wait(20)
        return Loaded.with_index(model, retriever)

    service = start(opened=opened)
    assert service.client.get("/healthz").json() == {"status": "ok", "modes": ["bm25"], "coming": [], "quick": True}
    opening.clear()
    sync(folder, index, TwoSided())
    # Words go on answering while the model is loaded.
    answer = service.client.get("/search", params={"q": "wool"}).json()
    assert (answer["mode"], [hit["id"] for hit in answer["hits"]]) == ("bm25", ["a.txt#1"])
    if not named:
        assert service.client.get("/healthz").json() == {
            "status": "ok", "modes": ["bm25"], "coming": ["hybrid", "dense"], "quick": True,
        }  # fmt: skip
    opening.set()
    wait_until(lambda: "hybrid" in service.client.get("/healthz").json()["modes"])
    assert service.client.get("/healthz").json() == {
        "status": "ok", "modes": ["hybrid", "dense", "bm25"], "coming": [], "quick": False,
    }  # fmt: skip
    answer = service.client.get("/search", params={"q": "soft wool"}).json()
    assert (answer["mode"], len(answer["hits"])) == ("hybrid", 2)
    dense = service.client.get("/search", params={"q": "b a river", "mode": "dense"}).json()["hits"]
    assert (dense[0]["id"], dense[0]["score"]) == ("b.txt#1", pytest.approx(1))
    assert service.client.get("/v1/models").json()["data"][0]["id"] == "hashes"
    write(folder, {"c.txt": "a bridge"})
    sync(folder, index, TwoSided())
    found = service.client.get("/search", params={"q": "c a bridge", "mode": "dense"}).json()["hits"]
    assert found[0]["id"] == "c.txt#1"


class Unusable(TwoSided):
    """Loads, and fails at its first text."""

    def count_tokens(self, texts: Sequence[str], side: str) -> Lengths:
        raise RuntimeError("no kernel\nfor this card")


@pytest.mark.parametrize(
    ("named", "fault"),
    [(True, None), (False, None), (False, ModelNotFoundError("no such model")), (False, RuntimeError("no\nkernel"))],
)
def test_words_go_on_answering_where_the_model_of_new_vectors_cannot_be_used(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, named: bool, fault: Exception | None
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index)
    loadings: list[str] = []

    def opened() -> Loaded:
        retriever = Retriever.open(index)
        if named:
            return Loaded.with_index(cast(ServedModel, TwoSided("another")), retriever, named=True)
        if retriever.store.has_vectors:
            loadings.append("again")
            if fault:
                raise fault
            return Loaded.with_index(cast(ServedModel, Unusable()), retriever)
        return Loaded.with_index(None, retriever)

    service = start(opened=opened)
    sync(folder, index, TwoSided())
    for _ in range(2):
        assert service.client.get("/search", params={"q": "wool"}).json()["mode"] == "bm25"
        wait_until(lambda: "BM25 alone still answers" in caplog.text)
    assert service.client.get("/healthz").json() == {"status": "ok", "modes": ["bm25"], "coming": [], "quick": True}
    assert len(loadings) == (0 if named else 1)
    assert caplog.text.count("BM25 alone still answers") == 1

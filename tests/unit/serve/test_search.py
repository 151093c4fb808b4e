"""The routes of search over a real index: filters, grouping, neighbors, reasons, and documents."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from service_stand_ins import Running, StandInEncoder, bearer, services

from llama2vec.data.documents.readers import FORMATS
from llama2vec.errors import ModelError
from llama2vec.explain.explanation import Explanation
from llama2vec.records import Passage, Place
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.hits import Hit, as_row
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.writer import write_store
from llama2vec.serve.loaded import PreparedQuery

TEXT = "The llama carries.\nIts wool is soft.\nIt lives in herds."
LINES = TEXT.split("\n")
BROKEN_NAME = "two\nlines\n"
PASSAGES = [
    Passage(
        f"guide.md#{n}", line, "Animals", Place("guide.md", TEXT.index(line), TEXT.index(line) + len(line), n, n),
        {"year": 2020, "draft": False},
    )
    for n, line in enumerate(LINES, start=1)
]  # fmt: skip
PASSAGES += [
    Passage("old.md", "The wool of the llama.", "", Place("old.md", 0, 22, page=3), {"year": 1999}),
    Passage("row", "A llama without a file."),
    Passage(BROKEN_NAME, "Sheep.", "", Place(BROKEN_NAME, 0, 6)),
]


class ExplainingEncoder(StandInEncoder):
    def explain(self, query: str, passage: str) -> Explanation:
        if query == "unexplained":
            raise ModelError("/secret/path: no head")
        return super().explain(query, passage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = tmp_path_factory.mktemp("files")
    (files / "guide.md").write_text(TEXT)
    (files / BROKEN_NAME).write_text(TEXT)
    (files / "other.md").write_text("not in the index")
    return files


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    encoder = ExplainingEncoder()
    encoder.encode_passages = lambda ps: encoder.encode([p.full_text for p in ps], "passage")  # type: ignore[attr-defined]
    store = write_store(lambda: PASSAGES, encoder, tmp_path_factory.mktemp("s") / "store", source={})  # type: ignore[arg-type]
    query = PreparedQuery(encoder.contract_hash)
    searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(PASSAGES))
    with services() as start:
        yield start(encoder=encoder, searcher=searcher, query=query, files=str(folder), token="sesame")


def test_a_search_is_filtered_and_says_where_each_passage_stands(service: Running) -> None:
    asked = {"q": "llama wool", "mode": "bm25", "where": "year >= 2020 and not draft"}
    answers = [service.client.get("/search", params=asked), service.client.post("/search", json=asked)]
    for answer in (response.json() for response in answers):
        assert [hit["id"] for hit in answer["hits"]] == ["guide.md#2", "guide.md#1"]
        assert answer["where"] == asked["where"]
        assert (answer["encode_ms"], 0 <= answer["search_ms"] <= answer["took_ms"]) == (None, True)
        best = answer["hits"][0]
        assert best["place"] == {
            "document": "guide.md", "begin": 19, "end": 36, "first_line": 2, "last_line": 2, "page": None,
        }  # fmt: skip
        assert (best["location"], best["row"], best["file"], best["more"]) == ("guide.md:2", 1, "files/guide.md", [])
        assert best["fields"] == {"year": 2020, "draft": False}
    plain = service.client.get("/search", params={"q": "file", "mode": "bm25"}).json()["hits"][0]
    assert (plain["location"], plain["place"], plain["file"], plain["fields"]) == ("row", None, None, {})


def test_rows_that_take_long_to_make_hold_up_nobody_else(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, statuses = threading.Event(), threading.Event(), list[int]()

    def as_row_slowly(hit: Hit, question: str) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(20)
        return as_row(hit, question)

    monkeypatch.setattr("llama2vec.serve.search.as_row", as_row_slowly)
    asked = {"q": "llama " * 2000, "mode": "bm25"}
    asking = threading.Thread(target=lambda: statuses.append(service.client.post("/search", json=asked).status_code))
    asking.start()
    try:
        assert begun.wait(20)
        assert service.client.get("/v1/models").status_code == 200
        assert service.client.get("/healthz").status_code == 200
    finally:
        go_on.set()
        asking.join(20)
    assert statuses == [200]


def test_an_answer_says_whether_the_question_was_cut_and_how_many_hits_there_can_be(service: Running) -> None:
    long = "llama " * 300
    for mode, text, cut in (
        ("dense", long, True),
        ("hybrid", long, True),
        ("dense", "llama", False),
        ("bm25", long, False),
    ):
        answer = service.client.post("/search", json={"q": text, "mode": mode, "depth": 2}).json()
        assert answer["cut"] is cut
        assert (answer["depth"], answer["max_depth"], len(answer["hits"])) == (2, 100, 2)
    assert service.client.get("/search", params={"q": "llama"}).json()["depth"] == 10


def test_passages_inside_a_line_are_told_apart(tmp_path: Path) -> None:
    sentences = ("The llama carries.", "Its wool is soft.", "It lives in herds.")
    text = " ".join(sentences)
    passages = [
        Passage(f"a.md#{n}", one, place=Place("a.md", text.index(one), text.index(one) + len(one), 1, 1))
        for n, one in enumerate(sentences)
    ]
    encoder = StandInEncoder()
    encoder.encode_passages = lambda ps: encoder.encode([p.full_text for p in ps], "passage")  # type: ignore[attr-defined]
    with services() as start:
        store = write_store(lambda: passages, encoder, tmp_path / "store", source={})  # type: ignore[arg-type]
        query = PreparedQuery(encoder.contract_hash)
        searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages))
        client = start(encoder=encoder, searcher=searcher, query=query).client
        hits = client.get("/search", params={"q": "llama wool", "mode": "bm25"}).json()["hits"]
        assert {hit["row"]: (hit["continues"], hit["snippet"]) for hit in hits} == {
            0: (False, "The llama carries."), 1: (True, "…Its wool is soft."),
        }  # fmt: skip
        assert [client.get("/context", params={"row": row}).json()["continues"] for row in (0, 1, 2)] == [
            False,
            False,
            True,
        ]


def test_the_time_of_encoding_is_told_apart(service: Running) -> None:
    answer = service.client.get("/search", params={"q": "llama", "mode": "dense"}).json()
    assert 0 < answer["encode_ms"] + answer["search_ms"] <= answer["took_ms"]


def test_hits_are_grouped_by_document(service: Running) -> None:
    asked = {"q": "llama wool herds", "mode": "bm25", "group": "true", "depth": 3}
    hits = service.client.get("/search", params=asked).json()["hits"]
    assert [(hit["rank"], hit["place"] and hit["place"]["document"]) for hit in hits] == [
        (1, "old.md"), (2, "guide.md"), (3, None),
    ]  # fmt: skip
    assert hits[1]["id"] == "guide.md#3"
    assert [(more["spot"], more["location"]) for more in hits[1]["more"]] == [
        ("line 2", "guide.md:2"), ("line 1", "guide.md:1"),
    ]  # fmt: skip
    assert [more["row"] for more in hits[1]["more"]] == [1, 0]


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        (
            "yaer > 3",
            "where: unknown field 'yaer'; did you mean year? the fields are id, title, path, page, year, draft",
        ),
        ("", "where: is empty; write an expression such as year >= 2020, or leave it out"),
    ],
)
def test_a_faulty_filter_is_told_by_its_field(service: Running, where: str, problem: str) -> None:
    answer = service.client.get("/search", params={"q": "llama", "where": where})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"].startswith(problem), error["param"]) == (True, "where"), error


def test_the_names_of_fields_are_listed(service: Running) -> None:
    assert service.client.get("/fields").json() == {"fields": ["id", "title", "path", "page", "year", "draft"]}


def test_a_passage_is_shown_with_its_neighbors(service: Running) -> None:
    near = service.client.get("/context", params={"row": 1}).json()
    assert near["asked"] == 1
    assert [(one["id"], one["text"]) for one in near["passages"]] == [
        (f"guide.md#{n}", text) for n, text in enumerate(LINES, start=1)
    ]
    alone = service.client.get("/context", params={"row": 3, "reach": 20}).json()
    assert [one["location"] for one in alone["passages"]] == ["old.md:3"]
    assert (near["continues"], alone["continues"]) == (False, False)
    assert service.client.get("/context", params={"row": 1, "reach": 0}).json()["asked"] == 0
    # A row that another passage has since the index was replaced is not shown as the one that was found.
    assert service.client.get("/context", params={"row": 1, "id": "guide.md#2"}).json() == near
    assert service.client.get("/context", params={"row": 1, "id": "guide.md#1"}).status_code == 404
    for row, status in ((99, 404), (2**63 - 1, 404), (2**63, 400), (10**30, 400), (-1, 400), ("x", 400)):
        for path in ("/context", "/explain"):
            answer = service.client.get(path, params={"row": row, **({"q": "wool"} if path == "/explain" else {})})
            assert answer.status_code == status, (path, row, answer.text)
            assert "--max-depth" not in answer.text
    wide = service.client.get("/context", params={"row": 1, "reach": 21}).json()["error"]["message"]
    assert wide == "reach: Input should be less than or equal to 20"


def test_why_a_passage_matches_is_told_by_words(service: Running) -> None:
    found = service.client.get("/explain", params={"q": "wool", "row": 3}).json()
    assert found == {
        "cosine": 0.75, "shared": [{"word": "llama", "contribution": 0.25}], "query_words": ["wool"],
        "passage_words": ["The wool of the llama."],
    }  # fmt: skip
    refused = service.client.get("/explain", params={"q": "unexplained", "row": 3})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_explainable")
    assert "secret" not in refused.text
    assert service.client.get("/explain", params={"q": "wool", "row": 99}).status_code == 404
    # A row that another passage has since the index was replaced is not explained as the one that was found.
    assert service.client.get("/explain", params={"q": "wool", "row": 3, "id": "old.md"}).json() == found
    assert service.client.get("/explain", params={"q": "wool", "row": 3, "id": "guide.md#1"}).status_code == 404


def test_only_documents_of_the_index_are_given_out_and_only_with_the_token(service: Running) -> None:
    answer = service.client.get("/files/guide.md")
    assert (answer.status_code, answer.text) == (200, TEXT)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("other.md", "old.md", "../guide.md", "%2e%2e/guide.md", "", "guide.md/", "%00", "//guide.md"):
        assert service.client.get(f"/files/{path}").status_code == 404, path
    told = {path: service.client.get(f"/files/{path}").json()["error"]["message"] for path in ("other.md", "old.md")}
    assert told["other.md"] == "this index has no such document"
    assert told["old.md"].startswith("this document is missing from its folder, or lies behind a link")
    assert service.client.get("/files/guide.md", headers=bearer("wrong")).status_code == 401


def test_a_document_is_given_out_in_either_unicode_form_of_its_name_as_the_index_spells_it(tmp_path: Path) -> None:
    composed, apart = "\u00dc.md", "U\u0308.md"
    (tmp_path / apart).write_text("in the index")
    (tmp_path / composed).write_text("not in the index")
    passages, encoder = [Passage(apart, "llama", place=Place(apart, 0, 5, 1, 1))], ExplainingEncoder()
    encoder.encode_passages = lambda ps: encoder.encode([p.full_text for p in ps], "passage")  # type: ignore[attr-defined]
    store = write_store(lambda: passages, encoder, tmp_path / "store", source={})  # type: ignore[arg-type]
    query = PreparedQuery(encoder.contract_hash)
    searcher = Retriever(ExactIndex(store), query, bm25=Bm25Index.build(passages))
    with services() as start:
        client = start(encoder=encoder, searcher=searcher, query=query, files=str(tmp_path)).client
        assert [client.get(f"/files/{name}").text for name in (apart, composed)] == ["in the index"] * 2


def test_a_document_whose_name_holds_line_breaks_is_given_out(service: Running) -> None:
    assert service.client.get(f"/files/{quote(BROKEN_NAME)}").text == TEXT


def test_the_page_knows_the_suffixes_of_source_code() -> None:
    script = (files("llama2vec") / "serve/page/hits.js").read_text(encoding="utf-8")
    listed = script.partition("const CODE")[2].partition(".split")[0]
    code = next(known for known in FORMATS if known.module == "code")
    assert "".join(re.findall('"(.*?)"', listed)).split() == [
        *(suffix.removeprefix(".") for suffix in code.suffixes),
        "json",
    ]


def test_without_the_option_there_are_no_documents() -> None:
    with services() as start:
        service = start()
        assert service.client.get("/files/guide.md").status_code == 404
        assert "/files/{path}" not in service.client.get("/openapi.json").json()["paths"]

"""The routes of search: passages, their neighbors, why they match, and their documents."""

# No `from __future__ import annotations`: FastAPI reads the request models from the signatures, and they are made here.

import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.convertors import PathConvertor, register_url_convertor

from llama2vec.errors import ModelError
from llama2vec.records import Passage
from llama2vec.retrieve.search.hits import Hit, as_row, continues_line, location, neighbors
from llama2vec.retrieve.search.opened import OpenedIndex
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.serve.answering import cut_header, described_errors, loaded, unless_gone
from llama2vec.serve.files import CorpusFiles, FilesOfIndex, headers_of, pieces, size_of
from llama2vec.serve.loaded import ModeGoneError, Search
from llama2vec.serve.schemas import (
    Context,
    FieldNames,
    FoundPassage,
    MatchingWord,
    NearPassage,
    Problem,
    Reasons,
    SearchAnswer,
    SearchFields,
    search_requests,
)
from llama2vec.serve.service import Service

if TYPE_CHECKING:
    from llama2vec.explain.explanation import Explanation

ResultT = TypeVar("ResultT")

_WORDS = 8
_Row = Annotated[int, Query(ge=0, lt=1 << 63, description="Number of the passage in the store, from a search.")]
_Id = Annotated[str | None, Query(description="The passage's id: 404 unless that row still holds it.")]


def add_search(app: FastAPI, service: Service, secured: list[Any]) -> None:
    """Add the routes of an index to the application; ``secured`` are the dependencies that ask for the token."""
    folder = service.settings.files
    files = FilesOfIndex(folder) if folder else None
    _add_passages(app, service, secured, files)
    _add_reading(app, service, secured)
    if files is not None:
        _add_files(app, service, secured, files)


def _add_passages(app: FastAPI, service: Service, secured: list[Any], files: FilesOfIndex | None) -> None:
    address_model, body_model = search_requests(service.settings)
    responses = described_errors(secured, 400, 408, 413, 500, 503, 504)

    async def answer(request: Request, response: Response, asked: SearchFields) -> SearchAnswer:
        modes = loaded(service).modes
        mode = asked.mode or modes[0]
        if mode not in modes:
            text = f"mode: this index cannot be searched by {mode}; choose from {', '.join(modes)}"
            raise Problem(400, text, "invalid_value", "mode")
        search = Search(asked.q, mode, asked.depth, asked.where, asked.group, asked.quick)

        def show(hits: list[Hit], store: VectorStore) -> list[FoundPassage]:
            there = files.of(store) if files else None
            return [
                FoundPassage(**as_row(hit, asked.q), file=there.address(hit.passage) if there else None) for hit in hits
            ]

        try:
            found = await _unless_gone(request, service.search(search, show), service)
        except ModeGoneError:
            return await answer(request, response, asked)  # In a mode of the new index, or the mode is refused
        response.headers.update(cut_header(found.cut))
        took_ms = 1000 * (time.monotonic() - request.scope["started"])
        return SearchAnswer(
            query=asked.q, mode=mode, modes=list(modes), where=asked.where, took_ms=round(took_ms, 2),
            encode_ms=None if found.encode_ms is None else round(found.encode_ms, 2),
            search_ms=round(found.search_ms, 2), quick=found.quick, cut=found.cut > 0,
            depth=asked.depth, max_depth=service.settings.max_depth, hits=found.hits,
        )  # fmt: skip

    @app.get("/search", dependencies=secured, responses=responses)
    async def search(request: Request, response: Response, asked: Annotated[address_model, Query()]) -> SearchAnswer:  # type: ignore[valid-type]
        """Search the index."""
        return await answer(request, response, asked)

    @app.post("/search", dependencies=secured, responses=responses)
    async def search_by_body(
        request: Request,
        response: Response,
        asked: Annotated[body_model, Body()],  # type: ignore[valid-type]
    ) -> SearchAnswer:
        """Search the index, for long questions and those that should not appear in an address."""
        return await answer(request, response, asked)


def _add_reading(app: FastAPI, service: Service, secured: list[Any]) -> None:
    responses = described_errors(secured, 400, 404, 500, 503, 504)
    question = Annotated[str, Query(min_length=1, max_length=service.settings.max_characters)]

    @app.get("/fields", dependencies=secured, responses=described_errors(secured, 500, 503, 504))
    async def fields(request: Request) -> FieldNames:
        """Name the fields that filters can use."""
        loaded(service)
        names = service.read(lambda opened: list(opened.fields.names))
        return FieldNames(fields=await _unless_gone(request, names, service))

    @app.get("/context", dependencies=secured, responses=responses)
    async def context(
        request: Request, row: _Row, reach: Annotated[int, Query(ge=0, le=20)] = 1, id: _Id = None
    ) -> Context:
        """Return a passage with those before and after it in its document, as far as ``reach``."""
        loaded(service)
        reading = service.read(lambda opened: _near(opened, row, id, reach))
        try:
            near, asked, continues = await _unless_gone(request, reading, service)
        except IndexError:
            raise _unknown_row() from None
        passages = [NearPassage(id=one.id, title=one.title, text=one.text, location=location(one)) for one in near]
        return Context(passages=passages, asked=asked, continues=continues)

    @app.get("/explain", dependencies=secured, responses=responses)
    async def explain(request: Request, q: question, row: _Row, id: _Id = None) -> Reasons:  # type: ignore[valid-type]
        """Tell why a passage matches a question: the words for which both vectors stand."""
        if loaded(service).query is None or loaded(service).is_behind:
            raise Problem(400, "this index is searched without vectors, so no words stand for them", "not_explainable")
        if loaded(service).model is None:
            raise Problem(
                400, "a query table answers here, and only a model can explain its vectors", "not_explainable"
            )

        async def reasons() -> "Explanation":
            return await service.explain(q, await service.read(lambda opened: _asked_for(opened, row, id)))

        try:
            found = await _unless_gone(request, reasons(), service)
        except IndexError:
            raise _unknown_row() from None
        except ModelError:
            text = "this model cannot explain its vectors; only one adapted by llama2vec, with its output head, can"
            raise Problem(400, text, "not_explainable") from None
        shared = [MatchingWord(word=one.word, contribution=one.contribution) for one in found.shared[:_WORDS]]
        return Reasons(
            cosine=found.cosine, shared=shared, query_words=[one.word for one in found.query_words[:_WORDS]],
            passage_words=[one.word for one in found.passage_words[:_WORDS]],
        )  # fmt: skip


class _NameConvertor(PathConvertor):
    """A path with any signs: Starlette's own ends at a line break, which a file's name may hold."""

    regex = "(?s:.*)"


register_url_convertor("name", _NameConvertor())


def _add_files(app: FastAPI, service: Service, secured: list[Any], files: FilesOfIndex) -> None:
    @app.get("/files/{path:name}", dependencies=secured, response_class=Response, responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **described_errors(secured, 404, 503, 504),
    })  # fmt: skip
    async def file(request: Request, path: str) -> Response:
        """Return a document of the index as it lies in its folder; never as a web page."""
        loaded(service)

        def reading(opened: OpenedIndex) -> tuple[str | None, CorpusFiles | None]:
            return opened.fields.document(path), files.of(opened.store)

        known, there = await _unless_gone(request, service.read(reading), service)
        if known is None:
            raise Problem(404, "this index has no such document", "file_not_found")
        opened = there.open(known) if there else None
        if opened is None:
            problem = "this document is missing from its folder, or lies behind a link, which is not followed"
            raise Problem(404, problem, "file_not_found")
        size = size_of(opened)
        return StreamingResponse(pieces(opened, size), headers=headers_of(opened, path, size))


def _unless_gone(
    request: Request, work: Coroutine[Any, Any, ResultT], service: Service
) -> Coroutine[Any, Any, ResultT]:
    late = "searches wait for a slow one, or for the model or the disk; try again later"
    return unless_gone(request, work, service.settings, late)


def _asked_for(opened: OpenedIndex, row: int, id: str | None) -> Passage:
    """Return a passage; an IndexError where the index was replaced since the search, and another one has its row."""
    passage = opened.store.passage(row)
    if id not in (None, passage.id):
        raise IndexError(f"row {row} is another passage now")
    return passage


def _near(opened: OpenedIndex, row: int, id: str | None, reach: int) -> tuple[list[Passage], int, bool]:
    """Return a passage among its neighbors, its number among them, and whether the first begins inside a line."""
    asked, near = _asked_for(opened, row, id), neighbors(opened.store, row, reach)
    place = [one.id for one in near].index(asked.id)
    before = row - place - 1
    return near, place, continues_line(near[0], opened.store.passage(before) if before >= 0 else None)


def _unknown_row() -> Problem:
    return Problem(404, "row: this passage is not there any more; search again", "passage_not_found", "row")

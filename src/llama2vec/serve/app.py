"""The HTTP routes, but those of search."""

# No `from __future__ import annotations`: FastAPI reads the request models from the signatures, and they are made here.

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Match

import llama2vec
from llama2vec.retrieve.index.exact import shortened
from llama2vec.serve.answering import (
    RETRY_WHILE_LOADING,
    cut_header,
    described_errors,
    loaded,
    served_model,
    unless_gone,
)
from llama2vec.serve.batcher import Encoded
from llama2vec.serve.gate import Gate
from llama2vec.serve.loaded import Loaded, ServedModel
from llama2vec.serve.metrics import Metrics
from llama2vec.serve.schemas import (
    EmbeddingAnswer,
    EmbeddingRequest,
    Health,
    Model,
    Models,
    Problem,
    embedding_request,
    faulty_field,
    problem_answer,
    unreadable_body,
)
from llama2vec.serve.search import add_search
from llama2vec.serve.service import Service
from llama2vec.serve.settings import ServeSettings

_PAGE = Path(__file__).parent / "page"
_PageFile = Literal["index.html", "page.css", "page.js", "keys.js", "hits.js", "evidence.js", "icon.svg"]


def create_app(
    load: Callable[[], Loaded],
    settings: ServeSettings,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    root_path: str = "",
    with_search: bool = True,
    on_ready: Callable[[Loaded], None] = lambda loaded: None,
    on_failure: Callable[[BaseException], None] = lambda error: None,
) -> FastAPI:
    """Return the service as an ASGI application; once started it loads, and answers 503 until that is done.

    Args:
        load: Opens model and index; called in a thread.
        settings: Limits.
        token: Bearer token that requests must carry; None = no token is needed.
        hosts: Names that requests may call the service by; None = any.
        root_path: Path under which a proxy offers the service, whether it removes the path from requests or not.
        with_search: Offer search and its page; False = embeddings only.
        on_ready: Called once when requests can be answered.
        on_failure: Called when loading failed.
    """
    service = Service(
        load, settings, lambda batch: metrics.count_batch(batch), lambda side, texts: metrics.count_cut(side, texts)
    )
    metrics = Metrics(lambda: service.waiting)

    async def start() -> None:
        try:
            on_ready(await service.start())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the caller tells the user and stops the server
            on_failure(error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(start())
        yield
        starting.cancel()
        await service.stop()

    app = FastAPI(
        title="llama2vec", version=llama2vec.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.add_middleware(
        Gate, settings=settings, token=token, hosts=hosts, root_path=root_path, count=metrics.count_request
    )
    _add_problem_answers(app)
    secured = [Depends(HTTPBearer(auto_error=False))] if token else []
    _add_status(app, service, metrics, secured)
    _add_embeddings(app, service, secured)
    if with_search:
        add_search(app, service, secured)
        _add_page(app)
    app.openapi = cache(lambda: _schema(app, root_path))  # type: ignore[method-assign]
    return app


def _add_problem_answers(app: FastAPI) -> None:
    """Report every mistake of a client in one shape; failures of the service are the gate's."""

    @app.exception_handler(RequestValidationError)
    async def faulty(_: Request, error: RequestValidationError) -> Response:
        return problem_answer(faulty_field(error.errors()))

    @app.exception_handler(HTTPException)
    async def problem(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and not isinstance(error, Problem):
            # FastAPI raises this where bytes are not UTF-8, or a number or the nesting is too large for Python.
            error = unreadable_body()
        if error.status_code == 405:
            # Two routes may share a path, and each knows only its own method.
            matched = [route for route in app.routes if route.matches(request.scope)[0] != Match.NONE]
            methods = sorted({method for route in matched for method in getattr(route, "methods", None) or ()})
            error.headers = {"Allow": ", ".join(methods)}
        return problem_answer(error)


def _add_status(app: FastAPI, service: Service, metrics: Metrics, secured: list[Any]) -> None:
    @app.get("/healthz", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """Report whether requests can be answered: 503 while loading, or when the model, store or engine fails."""
        state = await service.check()
        headers = RETRY_WHILE_LOADING if state == "loading" else None
        modes = list(service.loaded.modes) if service.loaded else []
        quick = bool(service.loaded and service.loaded.quick)
        content = {"status": state, "modes": modes, "coming": list(service.coming), "quick": quick}
        return JSONResponse(content, 200 if state == "ok" else 503, headers=headers)

    @app.get("/metrics", dependencies=secured, response_class=Response, responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **described_errors(secured),
    })  # fmt: skip
    async def numbers() -> Response:
        """Return requests, batches, tokens and the queue in Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_embeddings(app: FastAPI, service: Service, secured: list[Any]) -> None:
    request_model = embedding_request(service.settings)

    @app.post(
        "/v1/embeddings", response_model=EmbeddingAnswer, dependencies=secured,
        responses=described_errors(secured, 400, 404, 408, 413, 500, 503, 504),
    )  # fmt: skip
    async def embeddings(request: Request, body: Annotated[request_model, Body()]) -> Response:  # type: ignore[valid-type]
        """Embed texts, in OpenAI's format."""
        asked, model = cast(EmbeddingRequest, body), served_model(service)
        _check_model(asked.model, model.name)
        if asked.dimensions is not None and asked.dimensions > model.dimension:
            text = f"dimensions: this model has {model.dimension}, fewer than {asked.dimensions}"
            raise Problem(400, text, "invalid_value", "dimensions")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        encoded = await unless_gone(request, service.embed(texts, asked.input_type or "passage"), service.settings)
        # In a thread: writing the numbers of thousands of vectors takes seconds, in which others are answered.
        content = await asyncio.to_thread(_written, encoded, model.name, asked)
        return Response(content, media_type="application/json", headers=cut_header(encoded.cut))

    def described(model: ServedModel) -> Model:
        return Model(
            id=model.name, created=service.created, dimensions=model.dimension, contract_hash=model.contract_hash
        )

    @app.get("/v1/models", dependencies=secured, responses=described_errors(secured, 503))
    async def models() -> Models:
        """Name the served model."""
        model = loaded(service).model
        return Models(data=[described(model)] if model else [])

    @app.get("/v1/models/{model_id:path}", dependencies=secured, responses=described_errors(secured, 404, 503))
    async def model(model_id: str) -> Model:
        """Describe the served model."""
        found = described(served_model(service))
        _check_model(model_id, found.id)
        return found


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: _PageFile = "index.html") -> Response:
        # Otherwise a browser would show the cached page of an older version.
        return FileResponse(_PAGE / name, headers={"Cache-Control": "no-cache"})


def _written(encoded: Encoded, model: str, asked: EmbeddingRequest) -> str:
    """Return vectors as JSON, written one by one: a single call of ``json.dumps`` would hold up all other threads."""
    parts = []
    for place, vector in enumerate(shortened(encoded.vectors, asked.dimensions)):
        in_base64 = asked.encoding_format == "base64"
        value = base64.b64encode(vector.astype("<f4").tobytes()).decode() if in_base64 else vector.tolist()
        parts.append(json.dumps({"object": "embedding", "index": place, "embedding": value}, separators=(",", ":")))
    usage = {"prompt_tokens": encoded.tokens, "total_tokens": encoded.tokens}
    rest = json.dumps({"model": model, "usage": usage}, separators=(",", ":"))
    return f'{{"object":"list","data":[{",".join(parts)}],{rest[1:]}'


def _check_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        raise Problem(404, f"model: this service has only {served!r}", "model_not_found", "model")


def _schema(app: FastAPI, root_path: str) -> dict[str, Any]:
    """Return the OpenAPI schema; mistakes are 400, never FastAPI's 422."""
    servers = [{"url": root_path}] if root_path else None
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes, servers=servers)
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return schema

"""Requests and answers as pydantic models; the OpenAPI schema is made of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from llama2vec.records import Side
from llama2vec.retrieve.search.fusion import Mode
from llama2vec.serve.service import State
from llama2vec.serve.settings import ServeSettings


def _whole(value: object) -> object:
    """Read 4.0 as 4, as JSON Schema does: JSON does not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class EmbeddingRequest(BaseModel):
    """Texts to embed, as OpenAI's clients send them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    input: str | list[str]
    model: str | None = Field(None, description="Name of the served model, from /v1/models.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64 = little-endian float32, bit for bit."
    )
    dimensions: Annotated[Annotated[int, Field(ge=1)], BeforeValidator(_whole)] | None = Field(
        None, description="Keep only this many leading numbers of each vector, scaled back to unit length."
    )
    input_type: Side | None = Field(
        None, description="query = a question or search phrase; passage (default) = a text to be found."
    )
    user: str | None = Field(None, description="Ignored.")


class SearchFields(BaseModel):
    """A question and how to search for its answers."""

    model_config = ConfigDict(extra="forbid")

    q: str
    mode: Mode | None = Field(None, description="Default: the first of the index's modes.")
    depth: int = 10
    where: str | None = Field(
        None, description="""Search only passages of which this is true, such as year >= 2020 and path ~ "guide/"."""
    )
    group: bool = Field(False, description="Return the best passage of each document; depth then counts documents.")
    quick: bool = Field(
        False, description="Spare the model's pass where the service has a query table, for an answer while one types."
    )


class SearchBody(SearchFields):
    """A question and how to search for its answers."""

    model_config = ConfigDict(strict=True)


def embedding_request(settings: ServeSettings) -> type[EmbeddingRequest]:
    """Return the model of an embedding request, with the limits in it."""
    text = Annotated[str, Field(min_length=1, max_length=settings.max_characters)]
    texts = Annotated[list[text], Field(min_length=1, max_length=settings.max_texts)]  # type: ignore[valid-type]
    return create_model("EmbeddingRequest", __base__=EmbeddingRequest, input=(text | texts, ...))


def search_requests(settings: ServeSettings) -> tuple[type[SearchFields], type[SearchBody]]:
    """Return the models of a search by GET and of one by POST, with the limits in them."""
    question = Annotated[str, Field(min_length=1, max_length=settings.max_characters, description="The question.")]
    depth = Annotated[
        int, Field(ge=1, le=settings.max_depth, description="Most passages to return."), BeforeValidator(_whole)
    ]
    search: dict[str, Any] = {"q": (question, ...), "depth": (depth, min(10, settings.max_depth))}
    return (
        create_model("SearchAddress", __base__=SearchFields, **search),
        create_model("SearchRequest", __base__=SearchBody, **search),
    )


class Embedding(BaseModel):
    """One text's vector, as numbers or as base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model read, prompts included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """A served model; vectors with the same contract hash can be compared."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llama2vec"
    dimensions: int
    contract_hash: str


class Models(BaseModel):
    """The served model, as a list of one."""

    object: Literal["list"] = "list"
    data: list[Model]


class PassagePlace(BaseModel):
    """Where a passage stands in the text of its document; lines and pages count from 1."""

    document: str
    begin: int
    end: int
    first_line: int | None
    last_line: int | None
    page: int | None


class FoldedPassage(BaseModel):
    """A further passage of a hit's document."""

    id: str
    score: float
    title: str
    location: str
    spot: str
    row: int


class FoundPassage(BaseModel):
    """One passage; the score is in the mode's own unit, the snippet has the most words of the question.

    ``location`` reads ``file:page:line``, and ``spot`` says where in the document in short; ``row`` is the passage's
    number in the store; ``file`` is the address of its document, where documents are served; ``more`` has the other
    passages of the document, where hits are grouped; ``words`` are those of the question that are marked; ``continues``
    tells that the passage begins inside a line.
    """

    rank: int
    id: str
    score: float
    title: str
    text: str
    snippet: str
    words: list[str]
    continues: bool
    location: str
    spot: str
    row: int
    place: PassagePlace | None
    fields: dict[str, str | int | float | bool]
    file: str | None
    more: list[FoldedPassage]


class SearchAnswer(BaseModel):
    """Passages, best first; ``took_ms`` runs from request to answer, queueing included.

    ``encode_ms`` of it passed until the model's vector of the question was there, ``search_ms`` until the passages were
    found. ``quick`` tells that a query table stood in for the model, which ranks better: ask again without it. ``cut``
    tells that only the beginning of the question was read. ``hits`` has at most ``depth`` of them, and a search can ask
    for up to ``max_depth``.
    """

    query: str
    mode: Mode
    modes: list[Mode]
    where: str | None
    took_ms: float
    encode_ms: float | None
    search_ms: float
    quick: bool = False
    cut: bool = False
    depth: int
    max_depth: int
    hits: list[FoundPassage]


class FieldNames(BaseModel):
    """What filters can name."""

    fields: list[str]


class NearPassage(BaseModel):
    """A passage, or the one before or after it in the same document."""

    id: str
    title: str
    text: str
    location: str


class Context(BaseModel):
    """A passage in its document: consecutive passages, of which ``asked`` (from 0) is the one that was asked for.

    ``continues`` tells that the first of them begins inside a line.
    """

    passages: list[NearPassage]
    asked: int
    continues: bool


class MatchingWord(BaseModel):
    """A word for which both vectors stand, and how much it adds to the word score."""

    word: str
    contribution: float


class Reasons(BaseModel):
    """Why a passage matches a question, heaviest words first."""

    cosine: float
    shared: list[MatchingWord]
    query_words: list[str]
    passage_words: list[str]


class Health(BaseModel):
    """Whether requests are answered, and how the index can be searched."""

    status: State
    modes: list[Mode]
    coming: list[Mode] = Field(
        default_factory=list, description="Modes that follow as soon as the model of the index's new vectors is loaded."
    )
    quick: bool = Field(False, description="Whether searches with `quick` take no pass through a model.")


class Error(BaseModel):
    """What is wrong and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's shape of an error."""

    error: Error


_NAME = re.compile(r"[a-z_]{1,40}")
_TYPE_ERRORS = ("string_type", "list_type")
_LIMITS = {
    "too_long": ("has {actual_length} texts, more than the {max_length} of one request; send fewer", "--max-texts"),
    "string_too_long": ("has more than {max_length} characters; shorten it", "--max-characters"),
    "less_than_equal": ("must be at most {le}", "--max-depth"),
}


class Problem(HTTPException):
    """An answer that is an error, in OpenAI's terms; the message never holds a path or an exception's text."""

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail=message, headers=headers)
        self.code = code
        self.param = param


def problem_answer(problem: HTTPException) -> JSONResponse:
    """Return an error in OpenAI's shape."""
    status = problem.status_code
    code = problem.code if isinstance(problem, Problem) else HTTPStatus(status).phrase.lower().replace(" ", "_")
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == HTTPStatus.UNAUTHORIZED:
        kind = "authentication_error"
    message = str(problem.detail).encode(errors="backslashreplace").decode()  # It may quote a request
    error = {"message": message, "type": kind, "param": getattr(problem, "param", None), "code": code}
    return JSONResponse({"error": error}, status, headers=problem.headers)


def unreadable_body() -> Problem:
    """Report a body that cannot be read at all."""
    text = "the body is not JSON in UTF-8, or its numbers or nesting are too large to read"
    return Problem(400, text, "invalid_json")


def faulty_field(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Report the field that does not fit; where a field may have several types, the deepest mismatch."""
    # "Not a string" says nothing about a list whose own content is wrong.
    error = max(errors, key=lambda found: (len(found["loc"]), found["type"] != "string_type"))
    if error["type"] == "json_invalid":
        return unreadable_body()
    if tuple(error["loc"]) == ("body",):
        return Problem(400, "send a JSON object, with 'Content-Type: application/json'", "invalid_json")
    # The first part is body or query; pydantic's names for the members of a union mean nothing to a client.
    places = [str(part) for part in error["loc"][1:] if isinstance(part, int) or _NAME.fullmatch(str(part))]
    param = ".".join(places) or None
    if error["type"] == "extra_forbidden":
        if param is None:
            return Problem(400, "unknown field in request", "unknown_field")
        requests = (EmbeddingRequest, SearchBody)
        near = difflib.get_close_matches(param, [name for one in requests for name in one.model_fields], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return Problem(400, f"unknown field {param!r}; {hint}", "unknown_field", param)
    return Problem(400, f"{param or 'the request'}{_what_is_wrong(error, param)}", "invalid_value", param)


def _what_is_wrong(error: Mapping[str, Any], param: str | None) -> str:
    kind, given = error["type"], error.get("input")
    if param and param.startswith("input.") and isinstance(given, int | list):
        return ": send texts, not token ids (LangChain: check_embedding_ctx_length=False; see docs/stacks.md)"
    if param == "input" and kind in _TYPE_ERRORS:
        return ": give a text or a list of texts"
    if kind in _LIMITS and (kind != "less_than_equal" or param == "depth"):
        text, option = _LIMITS[kind]
        return f" {text.format(**error['ctx'])}, or start the service with a larger {option}"
    return f": {str(error['msg']).removeprefix('Value error, ')}"

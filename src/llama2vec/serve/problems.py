"""Every mistake that a client can make, and the one shape in which it is reported: OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

_NAME = re.compile(r"[a-z_]{1,40}")
_TYPE_ERRORS = ("string_type", "list_type")
_LIMITS = {
    "too_long": ("has {actual_length} texts, more than the {max_length} of one request; send fewer", "--max-texts"),
    "string_too_long": ("has more than {max_length} characters; shorten it", "--max-characters"),
    "less_than_equal": ("must be at most {le}", "--max-depth"),
}


class Problem(HTTPException):
    """An answer that is an error.

    Args:
        status: HTTP status code.
        message: What is wrong and what to do; never a path or an exception's text.
        code: For programs.
        param: Which part of the request is meant.
        headers: Such as ``Retry-After``.
    """

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
    error = {"message": problem.detail, "type": kind, "param": getattr(problem, "param", None), "code": code}
    return JSONResponse({"error": error}, status, headers=problem.headers)


def faulty_field(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Report the field that does not fit; where a field may have several types, the deepest mismatch."""
    # "Not a string" says nothing about a list whose own content is wrong.
    error = max(errors, key=lambda found: (len(found["loc"]), found["type"] != "string_type"))
    if error["type"] == "json_invalid":
        return Problem(400, "the body is not JSON", "invalid_json")
    if tuple(error["loc"]) == ("body",):
        return Problem(400, "send a JSON object, with 'Content-Type: application/json'", "invalid_json")
    # The first part is body or query; pydantic's names for the members of a union mean nothing to a client.
    places = [str(part) for part in error["loc"][1:] if isinstance(part, int) or _NAME.fullmatch(str(part))]
    param = ".".join(places) or None
    if error["type"] == "extra_forbidden":
        text = f"unknown field {param!r}; remove it" if param else "unknown field in request"
        return Problem(400, text, "unknown_field", param)
    return Problem(400, f"{param or 'the request'}{_what_is_wrong(error, param)}", "invalid_value", param)


def _what_is_wrong(error: Mapping[str, Any], param: str | None) -> str:
    kind, given = error["type"], error.get("input")
    if param and param.startswith("input.") and isinstance(given, int | list):
        return ": send texts, not token ids (LangChain: check_embedding_ctx_length=False)"
    if param == "input" and kind in _TYPE_ERRORS:
        return ": give a text or a list of texts"
    if kind in _LIMITS:
        text, option = _LIMITS[kind]
        return f" {text.format(**error['ctx'])}, or start the service with a larger {option}"
    return f": {str(error['msg']).removeprefix('Value error, ')}"

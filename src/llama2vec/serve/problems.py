"""Everything a client can do wrong, and the one shape in which it is told: OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

_NAME = re.compile(r"[a-z_]{1,40}")


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
    """Tell of the field that does not fit, the deepest where a field may have one of several types."""
    # That a list is no string is no news where the fault lies within the list.
    error = max(errors, key=lambda found: (len(found["loc"]), found["type"] != "string_type"))
    if error["type"] == "json_invalid":
        return Problem(400, "the body is not JSON", "invalid_json")
    if tuple(error["loc"]) == ("body",):
        return Problem(400, "send a JSON object, with 'Content-Type: application/json'", "invalid_json")
    # The first part says where (body, query); pydantic's names for the members of a union mean nothing to a client.
    places = [str(part) for part in error["loc"][1:] if isinstance(part, int) or _NAME.fullmatch(str(part))]
    param = ".".join(places) or None
    if param and param.startswith("input.") and isinstance(error.get("input"), int | list):
        text = (
            f"{param}: token ids are not taken, only texts; LangChain sends texts with check_embedding_ctx_length=False"
        )
        return Problem(400, text, "invalid_value", param)
    if param == "input" and error["type"] in ("string_type", "list_type"):
        return Problem(400, "input: give a text or a list of texts", "invalid_value", param)
    if error["type"] == "extra_forbidden":
        text = f"there is no field {param!r} here; leave it out" if param else "there is a field that nobody knows"
        return Problem(400, text, "unknown_field", param)
    message = str(error["msg"]).removeprefix("Value error, ")
    return Problem(400, f"{param or 'the request'}: {message}", "invalid_value", param)

"""How a server is asked for vectors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llama2vec.config import Settings


class ServerSettings(Settings):
    """How ``verify --backend http`` asks a server; each field is an option of the command."""

    url: Annotated[str | None, Field(description="Server with /v1/embeddings, for http.")] = None
    input_type_field: Annotated[
        str,
        Field(description="Field that tells the server query from passage; none = send the prompts as text."),
    ] = "input_type"
    served_name: Annotated[
        str | None, Field(description="Model name on the server; default: the name of the folder.")
    ] = None
    base64: Annotated[bool, Field(description="Ask the server for base64 vectors.")] = False
    timeout_seconds: Annotated[float, Field(gt=0, description="Longest wait for an answer, in seconds.")] = 60.0

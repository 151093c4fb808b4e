"""How a server is asked for vectors."""

from __future__ import annotations

from pydantic import Field

from llama2vec.config import Settings

NO_FIELD = ("none", "prompt")
"""Values of ``input_type_field`` that name no field."""


class ServerSettings(Settings):
    """How ``verify --backend http`` asks a server; each field is an option of the command."""

    url: str | None = Field(default=None, description="Address of a server with /v1/embeddings.")
    input_type_field: str = Field(
        default="input_type",
        description="Request field that says query or passage. none = send no field; prompts go as text unless the "
        "encoder is servable. prompt = send no field, and prompts always as text (llama.cpp).",
    )
    served_name: str | None = Field(
        default=None, description="Name of the model on the server; default: its folder's name."
    )
    base64: bool = Field(default=False, description="Ask the server for base64 vectors.")
    timeout_seconds: float = Field(default=60.0, gt=0, le=86_400, description="Longest wait for an answer, in seconds.")

"""Settings of the HTTP service; each field is an option of ``llama2vec serve``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llama2vec.config import Settings


class ServeSettings(Settings):
    """Limits of the HTTP service, and how it batches."""

    max_batch: Annotated[int, Field(ge=1, description="Texts in one model pass; 1 = no batching.")] = 64
    max_batch_tokens: Annotated[
        int, Field(ge=0, description="Tokens in one model pass; 0 = what suits the device. One text may be longer.")
    ] = 0
    max_wait_ms: Annotated[
        float, Field(ge=0, le=10_000, description="How long an idle model waits for more texts, in milliseconds.")
    ] = 5.0
    max_waiting: Annotated[int, Field(ge=1, description="Texts queued or being encoded before requests get 503.")] = (
        2048
    )
    max_connections: Annotated[int, Field(ge=1, description="Open connections before new ones get 503.")] = 512
    max_body_bytes: Annotated[int, Field(ge=1, description="Largest request body.")] = 4 << 20
    max_texts: Annotated[int, Field(ge=1, description="Texts in one request.")] = 256
    max_characters: Annotated[int, Field(ge=1, description="Characters in one text.")] = 65_536
    max_depth: Annotated[int, Field(ge=1, description="Passages in one answer.")] = 100
    timeout_seconds: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="Seconds for a request to arrive, to be answered, to be read."),
    ] = 60.0
    grace_seconds: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="Seconds that open requests get when the service stops.")
    ] = 30.0

    @model_validator(mode="after")
    def _one_request_fits(self) -> ServeSettings:
        if self.max_waiting < self.max_texts:
            raise ValueError(
                f"--max-waiting {self.max_waiting} must be at least --max-texts {self.max_texts}, "
                "or the largest request could never be accepted"
            )
        return self

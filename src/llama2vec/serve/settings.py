"""Settings of the HTTP service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from llama2vec.config import Settings


class ServeSettings(Settings):
    """Limits of the HTTP service and how it batches.

    Attributes:
        max_batch: Most texts that the model reads at once; 1 = no batching.
        max_batch_tokens: Most tokens of such a batch; 0 = what suits the encoder's device. One text may be longer.
        max_wait_ms: Time that an idle model waits for more texts after the first.
        max_waiting: Most texts that may wait or be in work; beyond it requests get 503.
        max_body_bytes: Largest request body.
        max_texts: Most texts of a request.
        max_characters: Longest text of a request; the model reads what its contract allows and cuts the rest.
        max_depth: Most passages of an answer.
        timeout_seconds: Longest time from a request's first byte to its answer.
        grace_seconds: Time that requests in flight get when the service is told to stop.
    """

    max_batch: Annotated[int, Field(ge=1)] = 64
    max_batch_tokens: Annotated[int, Field(ge=0)] = 0
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] = 5.0
    max_waiting: Annotated[int, Field(ge=1)] = 2048
    max_body_bytes: Annotated[int, Field(ge=1)] = 4 << 20
    max_texts: Annotated[int, Field(ge=1)] = 256
    max_characters: Annotated[int, Field(ge=1)] = 65_536
    max_depth: Annotated[int, Field(ge=1)] = 100
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    grace_seconds: Annotated[float, Field(ge=0)] = 30.0

    @model_validator(mode="after")
    def _one_request_fits(self) -> ServeSettings:
        if self.max_waiting < self.max_texts:
            raise ValueError(
                f"max_waiting ({self.max_waiting}) is smaller than max_texts ({self.max_texts}): "
                "the largest request would never be taken"
            )
        return self

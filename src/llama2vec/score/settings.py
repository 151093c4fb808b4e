"""Settings of an evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llama2vec.config import Settings


class RetrievalTask(Settings):
    """A BEIR folder and which of its judgments count; a name alone stands for its ``test`` split."""

    folder: Annotated[str, Field(min_length=1)]
    split: str = "test"

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"folder": data} if isinstance(data, str) else data


SystemName = Literal["bm25", "raw", "adapted", "finetuned", "hybrid"]


class EvaluateSettings(Settings):
    """What the models of a run are scored on.

    Attributes:
        data: BEIR folders.
        sts: Files of sentence pairs.
        measures: Of the retrieval tasks; empty = the usual ones.
        depth: Passages per query that are scored.
        systems: Who is scored: ``bm25``, ``raw`` (the LLM as it comes; mean pooling unless it carries a contract),
            ``adapted``, ``finetuned``, ``hybrid`` (the last of these together with BM25; retrieval alone). Empty = BM25
            and every model that the run makes, and ``hybrid`` where the index has BM25.
    """

    data: list[RetrievalTask] = Field(default_factory=list)
    sts: list[str] = Field(default_factory=list)
    measures: list[str] = Field(default_factory=list)
    depth: Annotated[int, Field(ge=1)] = 1000
    systems: list[SystemName] = Field(default_factory=list)

    @model_validator(mode="after")
    def _something_to_score(self) -> EvaluateSettings:
        if not self.data and not self.sts:
            raise ValueError("there is nothing to score on; name BEIR folders in data or sentence pairs in sts")
        if not self.data and self.systems and not set(self.systems) - {"bm25", "hybrid"}:
            raise ValueError(f"{self.systems[0]} does not score sentence pairs; name BEIR folders in data, or a model")
        return self

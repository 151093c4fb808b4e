"""Settings of encoding and indexing."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llama2vec.config import Language, Settings

logger = logging.getLogger(__name__)

IndexKind = Literal["exact", "faiss-flat", "faiss-hnsw", "faiss-ivfpq"]


class EncodeSettings(Settings):
    """How the corpus is encoded into a vector store.

    Attributes:
        corpus: Passages; "" = the run's ``corpus``.
        shard_size: Passages per shard.
        half: Store vectors as float16.
    """

    corpus: str = ""
    shard_size: Annotated[int, Field(ge=1)] = 2048
    half: bool = False


class IndexSettings(Settings):
    """The index over the store.

    Attributes:
        kind: ``exact`` compares with every vector; ``faiss-hnsw`` and ``faiss-ivfpq`` are approximate.
        bm25: Add BM25 over the same texts, so that search is hybrid.
        language: ISO 639 code that chooses BM25's stop words and stemmer.
    """

    kind: IndexKind = "exact"
    bm25: bool = False
    language: Language = "en"

    @model_validator(mode="before")
    @classmethod
    def _drop_sparse(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sparse" in values:
            logger.warning("index.sparse: sparse search was removed, so the key has no effect; please delete it")
            return {name: value for name, value in values.items() if name != "sparse"}
        return values

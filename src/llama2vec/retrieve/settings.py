"""Settings of encoding and indexing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llama2vec.config import Language, Settings


class EncodeSettings(Settings):
    """How the corpus is encoded into a vector store.

    Attributes:
        corpus: Passages; "" = the run's ``corpus``.
        shard_size: Passages per shard; a killed run loses at most one shard.
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
        sparse: Add the words of the embeddings; reads the texts with the model once more.
        language: Of stop words and stemmer, as ISO 639 has it.
    """

    kind: Literal["exact", "faiss-flat", "faiss-hnsw", "faiss-ivfpq"] = "exact"
    bm25: bool = False
    sparse: bool = False
    language: Language = "en"

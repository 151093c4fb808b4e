"""Settings of encoding and indexing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llama2vec.config import Settings, StableHashSettings
from llama2vec.engines.opening import Target
from llama2vec.languages import Language
from llama2vec.records import VectorFormat

IndexKind = Literal["exact", "faiss-flat", "faiss-hnsw", "faiss-ivfpq", "faiss-int8", "faiss-binary"]


class FaissSearch(Settings):
    """How a FAISS index is searched."""

    dims: int | None = None  # First dimensions of the vectors that the index holds; None = all
    effort: int | None = None  # Candidates examined in a graph, or cells; None = the usual number
    rescore: int = 0  # Candidates a hit that the store's vectors rank again; 0 = FAISS's own scores
    recall: float | None = None  # Share of the true ten nearest that was asked for; None = not tuned
    measured: float | None = None  # What a sample of passages reached


class SearchRequest(Settings):
    """What is asked of the vectors' index besides its kind."""

    dims: int | None = None  # Hold only the first dimensions (Matryoshka); the store ranks candidates by all of them
    recall: float | None = None  # Find this share of the true ten nearest, 0..1, as measured on a sample
    engine: Target | None = None  # Ask this collection, which must equal the store


class PlacingSettings(Settings):
    """Where the encoder runs: Ray gives the bytes of the plain command, vLLM its vectors up to rounding."""

    engine: Literal["process", "ray", "vllm"] = Field(
        "process", description="Where to encode: in this process, on a Ray cluster, or in vLLM (servable models)."
    )
    address: str = Field("", description="Ray cluster to use, HOST:PORT or auto; default: start Ray on this machine.")
    workers: int = Field(0, ge=0, description="Ray workers; default: one per GPU, or one per --worker-cpus CPUs.")
    worker_cpus: float = Field(
        0, ge=0, description="CPUs per Ray worker; default: as many as the smallest machine has."
    )

    @model_validator(mode="after")
    def _needs_ray(self) -> PlacingSettings:
        if self.engine != "ray" and (self.address or self.workers or self.worker_cpus):
            raise ValueError("--address, --workers and --worker-cpus need --engine ray; add it or drop them")
        return self


class StoredVectors(StableHashSettings):
    """How a store keeps its vectors."""

    added_later: ClassVar[frozenset[str]] = frozenset({"int8"})

    half: bool = Field(default=False, description="Store vectors as float16.")
    int8: bool = Field(default=False, description="Store vectors as int8, a quarter of the size of float32.")

    @model_validator(mode="after")
    def _one_format(self) -> StoredVectors:
        if self.half and self.int8:
            raise ValueError("half and int8 are two formats of the vectors; choose one")
        return self

    @property
    def vector_format(self) -> VectorFormat:
        """The format of the vectors."""
        return "int8" if self.int8 else "float16" if self.half else "float32"


class EncodeSettings(StoredVectors):
    """How the corpus is encoded into a vector store."""

    corpus: str = ""  # Passages; "" = the run's ``corpus``
    shard_size: Annotated[int, Field(ge=1)] = 2048  # Passages per shard


class IndexSettings(Settings):
    """The index over the store."""

    kind: IndexKind = "exact"  # ``exact`` and ``faiss-flat`` compare with every vector; the others are approximate
    bm25: bool = False  # Add BM25 over the same texts, so that search is hybrid
    language: Language = "en"  # ISO 639 code that chooses BM25's stop words and stemmer


class LibrarySettings(StoredVectors):
    """How an index that follows a folder is kept."""

    kind: IndexKind = "exact"  # ``exact`` and ``faiss-flat`` compare with every vector; the others are approximate
    language: Language = "en"  # ISO 639 code that chooses BM25's stop words and stemmer
    shard_size: Annotated[int, Field(ge=1)] = 8192  # Passages per shard of the store

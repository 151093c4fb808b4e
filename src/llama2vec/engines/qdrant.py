"""Qdrant: a server, or the client's local mode, which keeps its data in a folder."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from llama2vec.engines.engine import (
    ABOUT,
    REQUEST_SECONDS,
    About,
    Engine,
    Entry,
    Hits,
    Vectors,
    foreign,
    missing,
    payload,
    read_about,
)
from llama2vec.engines.local import opening_errors
from llama2vec.errors import EngineError

_NAMES = uuid.UUID("6f1f6d0e-7d5c-5a0b-9d5e-2b1c8f4e7a31")
_LISTED = 4096

SNIPPET = """\
import os
from llama2vec import Encoder
from qdrant_client import QdrantClient, models

encoder = Encoder.load($model)
client = QdrantClient($where=$at$token)
if client.get_collection($collection).config.metadata["llama2vec"]["contract_hash"] != encoder.contract_hash:
    raise SystemExit("the collection holds vectors of another model")
question = "…"
vector = encoder.encode_queries([question])[0].tolist()
found = client.query_points(
    $collection, query=vector, using="vector", limit=10,
    # query_filter=models.Filter(must=[models.FieldCondition(key="fields.year", range=models.Range(gte=2020))]),
)
for hit in found.points:
    print(f"{hit.score:.3f}  {hit.payload['id']}  {hit.payload['title']}  {hit.payload['text'][:80]!r}")
"""
WORDS_SNIPPET = """
# By words and vectors together:
from llama2vec.retrieve.index.word_vectors import query_words

words = query_words(question, $language)
sparse = models.SparseVector(indices=list(words), values=list(words.values()))
found = client.query_points(
    $collection,
    prefetch=[
        models.Prefetch(query=vector, using="vector", limit=100),
        models.Prefetch(query=sparse, using="words", limit=100),
    ],
    query=models.FusionQuery(fusion=models.Fusion.RRF), limit=10,
)
for hit in found.points:
    print(f"{hit.score:.3f}  {hit.payload['id']}  {hit.payload['title']}  {hit.payload['text'][:80]!r}")
"""
# Left to Python's own end, the local mode prints a traceback.
LAST_OF_SNIPPET = "client.close()\n"


class Qdrant(Engine):
    """A collection in Qdrant."""

    kind = "qdrant"

    def __init__(self, at: str, collection: str, *, token: str, timeout: float) -> None:
        try:
            import qdrant_client
            from qdrant_client.http.exceptions import ApiException
        except ImportError:
            raise missing("qdrant-client", "qdrant") from None
        self.place, self.is_exclusive = f"the collection {collection} at {at}", "://" not in at
        self.errors = (ApiException, RuntimeError, ValueError, OSError, sqlite3.Error)
        self._models, self._name, self._has_words = qdrant_client.models, collection, False
        with opening_errors("Qdrant", self.kind, at, self.errors):
            if not self.is_exclusive:
                where: dict[str, Any] = {"url": at, "api_key": token or None, "check_compatibility": False}
                # The client takes a limit for all of its requests.
                self._quick = qdrant_client.QdrantClient(**where, timeout=max(1, round(timeout)))
                self._quick.get_collections()
                self._client = qdrant_client.QdrantClient(**where, timeout=max(REQUEST_SECONDS, round(timeout)))
            else:
                self._quick = self._client = self._opened(qdrant_client, at)

    @staticmethod
    def _opened(package: Any, at: str) -> Any:
        try:
            # One thread opens it, another one searches, and either may close it; one at a time, as SQLite demands.
            return package.QdrantClient(path=at, force_disable_check_same_thread=True)
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            raise EngineError(
                f"{at} is open in another program, and Qdrant's local mode lets in one at a time; end that one, "
                "or run a Qdrant server"
            ) from error

    def about(self) -> About | None:
        if not self._quick.collection_exists(self._name):
            return None
        metadata = self._quick.get_collection(self._name).config.metadata or {}
        about = read_about(metadata.get(ABOUT), self.place)
        self._has_words = about.language is not None
        return about

    def create(self, about: About) -> None:
        models, self._has_words = self._models, about.language is not None
        # Dot: vectors have unit length, and Qdrant leaves them as they are.
        vector = models.VectorParams(size=about.dimension, distance=models.Distance.DOT)
        self._client.create_collection(
            self._name,
            vectors_config={"vector": vector},
            sparse_vectors_config={"words": models.SparseVectorParams()} if self._has_words else None,
            metadata={ABOUT: about.model_dump()},
        )
        if not (self._client.get_collection(self._name).config.metadata or {}).get(ABOUT):
            self._client.delete_collection(self._name)
            raise EngineError(f"{self.place} cannot say what made it; Qdrant can from version 1.16 on: update it")

    def describe(self, about: About) -> None:
        self._client.update_collection(self._name, metadata={ABOUT: about.model_dump()})

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        after: Any = None
        while True:
            points, after = self._client.scroll(
                self._name, limit=_LISTED, offset=after, with_payload=["id", "digest"], with_vectors=False
            )
            yield [(self._said(point, "id"), self._said(point, "digest")) for point in points]
            if after is None:
                return

    def upsert(self, entries: Sequence[Entry]) -> None:
        self._client.upsert(self._name, [self._point(entry) for entry in entries], wait=True)

    def _point(self, entry: Entry) -> Any:
        vectors: dict[str, Any] = {"vector": entry.vector.tolist()}
        if self._has_words:
            numbers, weights = list(entry.words), list(entry.words.values())
            vectors["words"] = self._models.SparseVector(indices=numbers, values=weights)
        content = {**payload(entry.passage), "digest": entry.digest}
        return self._models.PointStruct(id=_point_id(entry.passage.id), vector=vectors, payload=content)

    def delete(self, ids: Sequence[str]) -> None:
        self._client.delete(self._name, [_point_id(one) for one in ids], wait=True)

    def finish(self) -> None: ...

    def count(self) -> int:
        unmarked = self._models.IsEmptyCondition(is_empty=self._models.PayloadField(key="digest"))
        ours = self._models.Filter(must_not=[unmarked])
        return int(self._client.count(self._name, count_filter=ours, exact=True).count)

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        asked = [
            self._models.QueryRequest(query=vector, using="vector", limit=depth, with_payload=["id"])
            for vector in vectors.tolist()
        ]
        found = self._client.query_batch_points(self._name, asked)
        return [[(self._said(point, "id"), point.score) for point in one.points] for one in found]

    def _said(self, point: Any, name: str) -> str:
        """Return what a point of ours says; an EngineError for a point of another program."""
        value = (point.payload or {}).get(name)
        if not isinstance(value, str):
            raise foreign(self.place, point.id)
        return value

    def close(self) -> None:
        self._client.close()
        if self._quick is not self._client:
            self._quick.close()


def _point_id(passage_id: str) -> str:
    """Return a point's id, which must be a UUID or a number."""
    return str(uuid.uuid5(_NAMES, passage_id))

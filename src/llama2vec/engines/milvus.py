"""Milvus: a cluster, or an embedded database file (Milvus Lite)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama2vec.engines.engine import (
    ABOUT,
    REQUEST_SECONDS,
    About,
    Engine,
    Entry,
    Hits,
    Vectors,
    document_id,
    missing,
    payload,
    read_about,
)
from llama2vec.engines.local import opening_errors
from llama2vec.errors import EngineError
from llama2vec.records import Passage

_LONGEST = 65_535  # Bytes of a VARCHAR
_NO_WORDS = {0: 1.0}  # Milvus refuses empty sparse vectors; no query has this number
_LISTED = 4096

SNIPPET = """\
import json
import os
from llama2vec import Encoder
from pymilvus import MilvusClient

encoder = Encoder.load($model)
client = MilvusClient($at, token=os.environ.get("LLAMA2VEC_ENGINE_TOKEN", ""))
about = json.loads(client.describe_collection($collection)["properties"]["llama2vec"])
if about["contract_hash"] != encoder.contract_hash:
    raise SystemExit("the collection holds vectors of another model")
client.load_collection($collection)
question = "…"
vector = encoder.encode_queries([question])[0].tolist()
wanted = ["id", "title", "text", "path", "page", "fields"]
for hit in client.search(
    $collection, data=[vector], anns_field="vector", limit=10, output_fields=wanted,
    # filter='fields["year"] >= 2020',
)[0]:
    print(f"{hit['distance']:.3f}  {hit['id']}  {hit['entity']['title']}  {hit['entity']['text'][:80]!r}")
"""
WORDS_SNIPPET = """
# By words and vectors together:
from llama2vec.retrieve.index.word_vectors import query_words
from pymilvus import AnnSearchRequest, RRFRanker

by_vector = AnnSearchRequest([vector], "vector", {"metric_type": "IP"}, limit=100)
by_words = AnnSearchRequest([query_words(question, $language)], "words", {"metric_type": "IP"}, limit=100)
for hit in client.hybrid_search($collection, [by_vector, by_words], RRFRanker(), limit=10, output_fields=wanted)[0]:
    print(f"{hit['distance']:.3f}  {hit['id']}  {hit['entity']['title']}  {hit['entity']['text'][:80]!r}")
"""


class Milvus(Engine):
    """A collection in Milvus."""

    kind = "milvus"

    def __init__(self, at: str, collection: str, *, token: str, timeout: float) -> None:
        try:
            import pymilvus
        except ImportError:
            raise missing("pymilvus", "milvus") from None
        # They log the traceback of every error, which we tell in one line, and when Milvus Lite starts and stops.
        for name in ("pymilvus", "milvus_lite", "grpc"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.place, self.errors = f"the collection {collection} at {at}", (pymilvus.MilvusException,)
        self._types, self._name, self._has_words, self._seconds = pymilvus.DataType, collection, False, timeout
        with opening_errors("Milvus", self.kind, at, (*self.errors, OSError, RuntimeError)):
            try:
                self._client = pymilvus.MilvusClient(at, token=token, timeout=timeout)
                self._client.list_collections(timeout=timeout)
            except (*self.errors, OSError, RuntimeError) as error:
                if "Open local milvus failed" not in str(error) or not Path(at).exists():
                    raise
                raise EngineError(
                    f"{at} cannot be opened by Milvus Lite, which lets in one program at a time; end another one that "
                    "has it open, or run a Milvus server"
                ) from error

    def about(self) -> About | None:
        if not self._client.has_collection(self._name, timeout=self._seconds):
            return None
        described = self._client.describe_collection(self._name, timeout=self._seconds)
        properties = described.get("properties") or {}
        about = read_about(properties.get(ABOUT), self.place)
        self._has_words = about.language is not None
        self._client.load_collection(self._name)
        return about

    def create(self, about: About) -> None:
        types, schema = self._types, self._client.create_schema(description=f"contract {about.contract_hash}")
        # The client writes primary keys into expressions without escaping them, so a passage's id cannot be one.
        schema.add_field("key", types.VARCHAR, max_length=64, is_primary=True)
        for name in ("id", "digest", "title", "text"):
            schema.add_field(name, types.VARCHAR, max_length=_LONGEST)
        schema.add_field("path", types.VARCHAR, max_length=_LONGEST, nullable=True)
        schema.add_field("page", types.INT64, nullable=True)
        schema.add_field("place", types.JSON)
        schema.add_field("fields", types.JSON)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=about.dimension)
        index = self._client.prepare_index_params()
        # Vectors have unit length: the inner product is the cosine, and Milvus leaves them as they are.
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._has_words = about.language is not None
        if self._has_words:
            schema.add_field("words", types.SPARSE_FLOAT_VECTOR)
            index.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        # Strong: a search sees what was written just before it. The properties come at once: a collection without
        # them would look like another program's.
        self._client.create_collection(
            self._name,
            schema=schema,
            index_params=index,
            consistency_level="Strong",
            properties={ABOUT: about.model_dump_json()},
        )
        self._client.load_collection(self._name)

    def describe(self, about: About) -> None:
        self._client.alter_collection_properties(self._name, {ABOUT: about.model_dump_json()})

    def why_not(self, passage: Passage, words: int) -> str | None:
        for name in ("id", "title", "text"):
            size = len(getattr(passage, name).encode())
            if size > _LONGEST:
                return f"its {name} has {size:,} bytes, and Milvus takes {_LONGEST:,}"
        fields = len(json.dumps(dict(passage.fields)))
        return f"its fields have {fields:,} bytes, and Milvus takes {_LONGEST:,}" if fields > _LONGEST else None

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        rows = self._client.query_iterator(self._name, batch_size=_LISTED, output_fields=["id", "digest"])
        try:
            while batch := rows.next():
                yield [(row["id"], row["digest"]) for row in batch]
        finally:
            rows.close()

    def upsert(self, entries: Sequence[Entry]) -> None:
        self._client.upsert(self._name, [self._row(entry) for entry in entries])

    def _row(self, entry: Entry) -> dict[str, Any]:
        key = document_id(entry.passage.id)
        row = {**payload(entry.passage), "key": key, "digest": entry.digest, "vector": entry.vector.tolist()}
        return row | ({"words": dict(entry.words) or _NO_WORDS} if self._has_words else {})

    def delete(self, ids: Sequence[str]) -> None:
        self._client.delete(self._name, ids=[document_id(one) for one in ids])

    def finish(self) -> None:
        self._client.flush(self._name)

    def count(self) -> int:
        return int(self._client.query(self._name, output_fields=["count(*)"])[0]["count(*)"])

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        found = self._client.search(
            self._name, data=vectors.tolist(), anns_field="vector", limit=depth, output_fields=["id"],
            timeout=REQUEST_SECONDS,
        )  # fmt: skip
        return [[(hit["id"], hit["distance"]) for hit in hits] for hits in found]

    def close(self) -> None:
        self._client.close()

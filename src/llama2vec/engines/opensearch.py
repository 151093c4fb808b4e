"""OpenSearch, through its own client; tested against its client's requests, not against a server."""

from __future__ import annotations

import logging
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
    document_id,
    foreign,
    masked,
    masked_line,
    missing,
    payload,
    read_about,
    unreachable,
)
from llama2vec.errors import EngineError
from llama2vec.records import Passage
from llama2vec.terminal import counted

_LISTED = 4096
_LONGEST_KEYWORD = 32_766
_ANALYZERS = {
    "ar": "arabic", "bg": "bulgarian", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "es": "spanish", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french",
    "ga": "irish", "gl": "galician", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "ja": "cjk", "ko": "cjk", "lv": "latvian", "lt": "lithuanian", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "cjk",
}  # fmt: skip

SNIPPET = """\
import os
from llama2vec import Encoder
from opensearchpy import OpenSearch

encoder = Encoder.load($model)
token = os.environ.get("LLAMA2VEC_ENGINE_TOKEN")
client = OpenSearch($at, http_auth=tuple(token.split(":", 1)) if token else None)
about = client.indices.get_mapping(index=$collection)[$collection]["mappings"]["_meta"]["llama2vec"]
if about["contract_hash"] != encoder.contract_hash:
    raise SystemExit("the index holds vectors of another model")
question = "…"
nearest = {"vector": encoder.encode_queries([question])[0].tolist(), "k": 10}
# nearest["filter"] = {"term": {"fields.language": "en"}}
found = client.search(
    index=$collection, body={"size": 10, "query": {"knn": {"vector": nearest}}, "_source": {"excludes": ["vector"]}}
)
for hit in found["hits"]["hits"]:
    one = hit["_source"]
    print(f"{hit['_score']:.3f}  {one['id']}  {one['title']}  {one['text'][:80]!r}")
"""
WORDS_SNIPPET = """
# By words (OpenSearch's own BM25):
words = {"multi_match": {"query": question, "fields": ["title", "text"]}}
found = client.search(index=$collection, body={"size": 10, "query": words, "_source": {"excludes": ["vector"]}})
for hit in found["hits"]["hits"]:
    one = hit["_source"]
    print(f"{hit['_score']:.3f}  {one['id']}  {one['title']}  {one['text'][:80]!r}")
"""


class OpenSearch(Engine):
    """An index in OpenSearch."""

    kind = "opensearch"
    has_bm25 = True

    def __init__(self, at: str, collection: str, *, token: str, timeout: float, **client: Any) -> None:
        """Connect; ``client`` = further options of the client, such as the class of its connections."""
        try:
            import opensearchpy
            from opensearchpy.exceptions import OpenSearchException
        except ImportError:
            raise missing("opensearch-py", "opensearch") from None
        # It logs the traceback of every failed request, which we tell in one line.
        logging.getLogger("opensearch").setLevel(logging.CRITICAL)
        shown = masked(at)
        self.place, self.errors = f"the index {collection} at {shown}", (OpenSearchException,)
        self._helpers, self._name, self._quick = opensearchpy.helpers, collection, {"request_timeout": timeout}
        user, _, password = token.partition(":")
        secret = {"http_auth": (user, password)} if token else {}
        try:
            # A batch of passages or queries may take longer than the first answer.
            self._client = opensearchpy.OpenSearch(
                at, timeout=max(REQUEST_SECONDS, timeout), max_retries=3, retry_on_timeout=False, **secret, **client
            )
            self._client.info(**self._quick)
        except (OpenSearchException, OSError, ValueError) as error:
            raise unreachable(f"OpenSearch at {shown}", error) from error

    def about(self) -> About | None:
        if not self._client.indices.exists(index=self._name, **self._quick):
            return None
        found = self._client.indices.get_mapping(index=self._name, **self._quick)
        if self._name not in found:
            raise EngineError(f"{self.place} is an alias of {', '.join(sorted(found))}; name the index itself")
        return read_about(found[self._name]["mappings"].get("_meta", {}).get(ABOUT), self.place)

    def create(self, about: About) -> None:
        words = {"type": "text", "analyzer": _ANALYZERS.get(about.language or "", "standard")}
        # Vectors have unit length: the inner product is the cosine.
        method = {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct"}
        mappings = {
            "_meta": {ABOUT: about.model_dump()},
            "dynamic": False,
            "properties": {
                "id": {"type": "keyword"},
                "digest": {"type": "keyword", "index": False},
                "title": words,
                "text": words,
                "path": {"type": "keyword", "ignore_above": _LONGEST_KEYWORD // 4},
                "page": {"type": "integer"},
                # One field may hold numbers in some passages and text in others, which only this type takes.
                "fields": {"type": "flat_object"},
                "vector": {"type": "knn_vector", "dimension": about.dimension, "method": method},
            },
        }
        self._client.indices.create(index=self._name, body={"settings": {"index": {"knn": True}}, "mappings": mappings})

    def describe(self, about: About) -> None:
        self._client.indices.put_mapping(index=self._name, body={"_meta": {ABOUT: about.model_dump()}})

    def why_not(self, passage: Passage, words: int) -> str | None:
        size = len(passage.id.encode())
        if size > _LONGEST_KEYWORD:
            return f"its id has {size:,} bytes, and OpenSearch takes {_LONGEST_KEYWORD:,}"
        for name, value in passage.fields.items():
            # One term for each value of a flat object, with the path before it.
            size = len(f"fields.{name}={value}".encode())
            if size > _LONGEST_KEYWORD:
                return f"its field {name!r} has {size:,} bytes with its name, and OpenSearch takes {_LONGEST_KEYWORD:,}"
        return None

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        self._client.indices.refresh(index=self._name)
        batch = []
        for hit in self._helpers.scan(
            self._client, index=self._name, query={"_source": ["id", "digest"]}, size=_LISTED
        ):
            batch.append((self._said(hit, "id"), self._said(hit, "digest")))
            if len(batch) == _LISTED:
                yield batch
                batch = []
        yield batch

    def upsert(self, entries: Sequence[Entry]) -> None:
        self._bulk(
            {
                "_op_type": "index",
                "_id": document_id(entry.passage.id),
                "_source": {**payload(entry.passage), "digest": entry.digest, "vector": entry.vector.tolist()},
            }
            for entry in entries
        )

    def delete(self, ids: Sequence[str]) -> None:
        self._bulk({"_op_type": "delete", "_id": document_id(one)} for one in ids)

    def _bulk(self, actions: Iterator[dict[str, Any]]) -> None:
        _, refused = self._helpers.bulk(self._client, actions, index=self._name, raise_on_error=False)
        faults = [fault for item in refused for fault in item.values() if fault.get("status") != 404]
        if faults:
            refused_now = f"refused {counted(len(faults), 'passage')} of a batch ({_reason(faults[0].get('error'))})"
            raise EngineError(
                f"{self.place} {refused_now}; what was written stays, and the same command continues from there"
            )

    def finish(self) -> None:
        self._client.indices.refresh(index=self._name)

    def count(self) -> int:
        ours = {"query": {"exists": {"field": "digest"}}}
        return int(self._client.count(index=self._name, body=ours)["count"])

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        lines: list[dict[str, Any]] = []
        for vector in vectors.tolist():
            query = {"knn": {"vector": {"vector": vector, "k": depth}}}
            lines += [{}, {"size": depth, "query": query, "_source": ["id"]}]
        found = self._client.msearch(body=lines, index=self._name)["responses"]
        for one in found:
            if "error" in one:
                raise EngineError(f"{self.place} cannot be searched ({_reason(one['error'])}); export again")
        return [[(self._said(hit, "id"), _product(hit["_score"])) for hit in one["hits"]["hits"]] for one in found]

    def _said(self, hit: Any, name: str) -> str:
        """Return what a document of ours says; an EngineError for one of another program."""
        value = hit.get("_source", {}).get(name)
        if not isinstance(value, str):
            raise foreign(self.place, hit.get("_id"))
        return value

    def close(self) -> None:
        self._client.close()


def _reason(error: Any) -> str:
    """Return why OpenSearch refused something, in its innermost words.

    >>> _reason({"type": "mapper", "reason": "failed to parse", "caused_by": {"reason": "another dimension"}})
    'another dimension'
    """
    while isinstance(error, dict):
        error = error.get("caused_by") or error.get("reason") or error.get("type") or ""
    return masked_line(Exception(error))


def _product(score: float) -> float:
    """Return the inner product of which OpenSearch made a score that is never negative.

    >>> _product(1.5), _product(0.5)
    (0.5, -1.0)
    """
    return score - 1 if score >= 1 else 1 - 1 / score

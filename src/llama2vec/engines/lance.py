"""LanceDB: embedded, in a folder or an object store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llama2vec.engines.engine import ABOUT, About, Engine, Entry, Hits, Vectors, missing, payload, read_about
from llama2vec.engines.local import opening_errors

_LISTED = 4096
_FEW = 50_000  # Passages that are compared one by one; an index would be less exact and hardly faster
_LANGUAGES = {
    "ar": "Arabic", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fi": "Finnish",
    "fr": "French", "hu": "Hungarian", "it": "Italian", "nl": "Dutch", "no": "Norwegian", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "ta": "Tamil", "tr": "Turkish",
}  # fmt: skip

SNIPPET = """\
import json
import os
import lancedb
from llama2vec import Encoder

encoder = Encoder.load($model)
table = lancedb.connect($at, api_key=os.environ.get("LLAMA2VEC_ENGINE_TOKEN")).open_table($collection)
if json.loads(table.schema.field("id").metadata[b"llama2vec"])["contract_hash"] != encoder.contract_hash:
    raise SystemExit("the table holds vectors of another model")
question = "…"
search = table.search(encoder.encode_queries([question])[0], vector_column_name="vector").distance_type("dot").limit(10)
# search = search.where("json_get_int(fields, 'year') >= 2020")
for hit in search.select(["id", "title", "text", "path", "page", "fields", "_distance"]).to_list():
    print(f"{1 - hit['_distance']:.3f}  {hit['id']}  {hit['title']}  {hit['text'][:80]!r}")
"""
WORDS_SNIPPET = """
# By words (LanceDB's own BM25):
from lancedb.query import MultiMatchQuery

search = table.search(MultiMatchQuery(question, ["title", "text"]), query_type="fts").limit(10)
for hit in search.select(["id", "title", "text", "_score"]).to_list():
    print(f"{hit['_score']:.3f}  {hit['id']}  {hit['title']}  {hit['text'][:80]!r}")
"""


class Lance(Engine):
    """A table in LanceDB."""

    kind = "lancedb"
    has_bm25 = True

    def __init__(self, at: str, collection: str, *, token: str, timeout: float) -> None:
        try:
            import lancedb
            import pyarrow
        except ImportError:
            raise missing("lancedb", "lancedb") from None
        self.place, self.errors = f"the table {collection} at {at}", (RuntimeError, ValueError, OSError)
        self._arrow, self._name = pyarrow, collection
        self._table: Any = None
        with opening_errors("LanceDB", self.kind, at, self.errors):
            self._database = lancedb.connect(at, api_key=token or None)
            self._exists()

    def about(self) -> About | None:
        if not self._exists():
            return None
        self._table = self._database.open_table(self._name)
        names = self._table.schema.names
        metadata = (self._table.schema.field("id").metadata if "id" in names else None) or {}
        return read_about(metadata.get(ABOUT.encode()), self.place)

    def _exists(self) -> bool:
        return self._name in self._database.list_tables(limit=100_000).tables

    def create(self, about: About) -> None:
        pa, text = self._arrow, self._arrow.utf8()
        one = pa.field("id", text, nullable=False, metadata={ABOUT: about.model_dump_json()})
        kinds = {"page": pa.int64(), "fields": pa.json_(text), "vector": pa.list_(pa.float32(), about.dimension)}
        names = ("digest", "title", "text", "path", "page", "place", "fields", "vector")
        schema = pa.schema([one, *(pa.field(name, kinds.get(name, text)) for name in names)])
        self._table = self._database.create_table(self._name, schema=schema)

    def describe(self, about: About) -> None:
        self._table.update_field_metadata({"path": "id", "metadata": {ABOUT: about.model_dump_json()}})

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        for batch in self._table.search().select(["id", "digest"]).to_batches(batch_size=_LISTED):
            yield list(zip(batch["id"].to_pylist(), batch["digest"].to_pylist(), strict=True))

    def upsert(self, entries: Sequence[Entry]) -> None:
        pa, schema = self._arrow, self._table.schema
        rows = [{**payload(entry.passage), "digest": entry.digest} for entry in entries]
        columns = {name: [row[name] for row in rows] for name in ("id", "digest", "title", "text", "path", "page")}
        columns["place"] = [json.dumps(row["place"]) for row in rows]
        fields = pa.array([json.dumps(row["fields"]) for row in rows])
        columns["fields"] = pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), fields)
        vectors = np.concatenate([entry.vector for entry in entries])
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors), len(entries[0].vector))
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.table(columns, schema=schema))

    def delete(self, ids: Sequence[str]) -> None:
        written = ", ".join("'" + one.replace("'", "''") + "'" for one in ids)
        self._table.delete(f"id IN ({written})")

    def finish(self) -> None:
        from lancedb.index import FTS, HnswSq

        about = read_about(self._table.schema.field("id").metadata[ABOUT.encode()], self.place)
        there = {name for index in self._table.list_indices() for name in index.columns}
        if "vector" not in there and self._table.count_rows() > _FEW:
            self._table.create_index("vector", config=HnswSq(distance_type="dot"))
        if about.language and "text" not in there:
            language = _LANGUAGES.get(about.language)
            tokenizer = "icu" if about.language in ("zh", "ja", "ko", "th") else "simple"
            for column in ("title", "text"):
                self._table.create_index(
                    column,
                    config=FTS(
                        base_tokenizer=tokenizer,
                        language=language or "English",
                        stem=language is not None,
                        remove_stop_words=language is not None,
                    ),
                )
        # One version of the table for each batch until here; the indexes take in new rows.
        self._table.optimize()

    def count(self) -> int:
        return int(self._table.count_rows())

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        found = []
        for vector in vectors:
            search = self._table.search(vector, vector_column_name="vector").distance_type("dot").limit(depth)
            hits = search.refine_factor(4).select(["id", "_distance"]).to_list()
            found.append([(hit["id"], 1 - hit["_distance"]) for hit in hits])
        return found

    def close(self) -> None: ...

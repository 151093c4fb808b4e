"""PostgreSQL with the extension pgvector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from llama2vec.engines.engine import (
    WORD_SPACE,
    About,
    Engine,
    Entry,
    Hits,
    Vectors,
    masked,
    masked_line,
    missing,
    payload,
    read_about,
    unreachable,
)
from llama2vec.errors import EngineError
from llama2vec.records import Passage

Answer = TypeVar("Answer")

_LISTED = 4096
_COLUMNS = ("id", "digest", "title", "text", "path", "page", "place", "fields", "vector")
_MOST_WORDS = 16_000  # Largest number of entries of pgvector's sparsevec
_MOST_SEARCHED = 1000  # Largest hnsw.ef_search of pgvector

SNIPPET = """\
import os
import psycopg
from llama2vec import Encoder
from pgvector.psycopg import register_vector

encoder = Encoder.load($model)
token = os.environ.get("LLAMA2VEC_ENGINE_TOKEN")
database = psycopg.connect($at, autocommit=True, **({"password": token} if token else {}))
register_vector(database)
about = database.execute("select obj_description(%s::regclass)::jsonb", ['"' + $collection + '"']).fetchone()[0]
if about["contract_hash"] != encoder.contract_hash:
    raise SystemExit("the table holds vectors of another model")
question = "…"
vector = encoder.encode_queries([question])[0]
database.execute("set hnsw.ef_search = $reach")
condition = ""  # For a filter, such as: "where (fields->>'year')::int >= 2020"
if condition:  # Goes on in the index until enough passages meet it (pgvector 0.8 or later)
    database.execute("set hnsw.iterative_scan = strict_order")
nearest = $nearest
found = database.execute(nearest.format(condition=condition), {"query": vector, "limit": 10, "reach": $reach})
about = 'select title, text from "' + $collection + '" where id = %s'
for passage_id, score in found.fetchall():
    title, text = database.execute(about, [passage_id]).fetchone()
    print(f"{score:.3f}  {passage_id}  {title}  {text[:80]!r}")
"""
WORDS_SNIPPET = """
# By words:
from llama2vec.retrieve.index.word_vectors import query_words
from pgvector import SparseVector

words = SparseVector(query_words(question, $language), $word_space)
found = database.execute(
    'select id, -(words <#> %s) as score from "' + $collection + '" order by words <#> %s limit 10', [words, words]
)
for passage_id, score in found.fetchall():
    print(f"{score:.3f}  {passage_id}")
"""


class Pgvector(Engine):
    """A table in PostgreSQL."""

    kind = "pgvector"

    def __init__(self, at: str, collection: str, *, token: str, timeout: float) -> None:
        try:
            import pgvector
            import psycopg
            from pgvector.psycopg import register_vector
            from psycopg.types.json import Jsonb
        except ImportError:
            raise missing("psycopg or pgvector", "pgvector") from None
        shown = masked(at)
        self.place, self.errors = f"the table {collection} at {shown}", (psycopg.Error,)
        self._table, self._sparse, self._jsonb = quoted(collection), pgvector.SparseVector, Jsonb
        self._has_words, self._dimension = False, 0
        secret = {"password": token} if token else {}
        # A host that drops packets would take a quarter of an hour to be noticed; a long query does not count.
        limits = {"connect_timeout": max(2, round(timeout)), "tcp_user_timeout": round(1000 * timeout)}

        def connect() -> Any:
            try:
                database = psycopg.connect(at, autocommit=True, **limits, **secret)
            except (psycopg.Error, OSError) as error:
                raise unreachable(f"PostgreSQL at {shown}", error) from error
            try:
                database.execute("SET client_min_messages = warning")
                try:
                    register_vector(database)
                except psycopg.ProgrammingError:  # Not there yet; a server that only reads refuses even IF NOT EXISTS
                    database.execute("CREATE EXTENSION IF NOT EXISTS vector")
                    register_vector(database)
            except psycopg.Error as error:
                database.close()
                raise EngineError(
                    f"PostgreSQL at {shown} lacks pgvector: {masked_line(error)}; install it there"
                ) from error
            return database

        self._connect = connect
        self._database = connect()

    def _read(self, ask: Callable[[], Answer]) -> Answer:
        """Ask the database; if the connection is lost, as by a restart of the server, ask once more on a new one."""
        try:
            return ask()
        except self.errors:
            if not self._database.closed:
                raise
            self._database = self._connect()
            return ask()

    def about(self) -> About | None:
        statement = "SELECT to_regclass(%s), obj_description(to_regclass(%s))"
        table, comment = self._read(lambda: self._database.execute(statement, [self._table] * 2).fetchone())
        if table is None:
            return None
        about = read_about(comment, self.place)
        self._has_words, self._dimension = about.language is not None, about.dimension
        return about

    def create(self, about: About) -> None:
        self._has_words, self._dimension = about.language is not None, about.dimension
        words = f", words sparsevec({WORD_SPACE}) NOT NULL" if self._has_words else ""
        # One transaction: a table without its comment would look like another program's.
        with self._database.transaction():
            self._database.execute(
                f"CREATE TABLE {self._table} (id text PRIMARY KEY, digest text NOT NULL, title text NOT NULL, "
                "text text NOT NULL, path text, page int, place jsonb NOT NULL, fields jsonb NOT NULL, "
                f"vector vector({about.dimension}) NOT NULL{words})"
            )
            self.describe(about)

    def describe(self, about: About) -> None:
        # A comment takes no parameters.
        text = about.model_dump_json().replace("'", "''")
        self._database.execute(f"COMMENT ON TABLE {self._table} IS '{text}'")

    def why_not(self, passage: Passage, words: int) -> str | None:
        size = len(passage.id.encode())
        if size > 2600:
            return f"its id has {size:,} bytes, and PostgreSQL's keys take 2,600"
        if words > _MOST_WORDS:
            return f"it has {words:,} different words, and pgvector's sparsevec takes {_MOST_WORDS:,}"
        return None

    def digests(self) -> Iterator[Sequence[tuple[str, str]]]:
        with self._database.transaction(), self._database.cursor(name="llama2vec") as rows:
            rows.execute(f"SELECT id, digest FROM {self._table}")  # noqa: S608
            while batch := rows.fetchmany(_LISTED):
                yield batch

    def upsert(self, entries: Sequence[Entry]) -> None:
        columns = (*_COLUMNS, "words") if self._has_words else _COLUMNS
        values = ", ".join(f"%({name})s" for name in columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
        statement = (
            f"INSERT INTO {self._table} ({', '.join(columns)}) VALUES ({values}) "  # noqa: S608
            f"ON CONFLICT (id) DO UPDATE SET {changes}"
        )
        with self._database.transaction(), self._database.cursor() as cursor:
            cursor.executemany(statement, [self._row(entry) for entry in entries])

    def _row(self, entry: Entry) -> dict[str, Any]:
        row = {**payload(entry.passage), "digest": entry.digest, "vector": entry.vector}
        row |= {name: self._jsonb(row[name]) for name in ("place", "fields")}
        return row | ({"words": self._sparse(dict(entry.words), WORD_SPACE)} if self._has_words else {})

    def delete(self, ids: Sequence[str]) -> None:
        self._database.execute(f"DELETE FROM {self._table} WHERE id = ANY(%s)", [list(ids)])  # noqa: S608

    def finish(self) -> None:
        name, indexed = _index_name(self._table), _indexed(self._dimension)
        self._database.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {self._table} USING hnsw ({indexed})")
        self._database.execute(f"ANALYZE {self._table}")

    def count(self) -> int:
        return int(self._database.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0])  # noqa: S608

    def search(self, vectors: Vectors, depth: int) -> list[Hits]:
        statement, reach = nearest_sql(self._table, self._dimension), candidates(self._dimension, depth)

        def ask() -> list[Hits]:
            self._database.execute(f"SET hnsw.ef_search = {reach}")
            asked = [{"query": vector, "limit": depth, "reach": reach} for vector in vectors]
            rows = [self._database.execute(statement, one).fetchall() for one in asked]
            return [[(one, float(score)) for one, score in found] for found in rows]

        return self._read(ask)

    def close(self) -> None:
        self._database.close()


def _index_name(table: str) -> str:
    """Return the name of a table's index over vectors: PostgreSQL cuts names, and two tables may begin alike."""
    return quoted(f"llama2vec_{hashlib.blake2b(table.encode(), digest_size=12).hexdigest()}_vector")


def _indexed(dimension: int) -> str:
    """Return what an HNSW index is over: pgvector's takes 2,000 float32, 4,000 float16, or 64,000 bits."""
    if dimension <= 2000:
        return "vector vector_ip_ops"
    if dimension <= 4000:
        return f"(vector::halfvec({dimension})) halfvec_ip_ops"
    return f"(binary_quantize(vector)::bit({dimension})) bit_hamming_ops"


def candidates(dimension: int, depth: int) -> int:
    """Return how many passages are taken from the index before the vectors rank them."""
    return min(_MOST_SEARCHED, max(100, depth * (4 if dimension <= 4000 else 40)))


def nearest_sql(table: str, dimension: int, condition: str = "") -> str:
    """Return the query for the nearest passages of a vector ``query``: ids and inner products, ``limit`` of them.

    Where the index holds less than the vectors, ``reach`` candidates are taken from it and ranked by the vectors. A
    ``condition`` (``where …``) stands where the index is read, so that it limits the candidates too.
    """
    table = f"{table} {condition}" if condition else table
    if dimension <= 2000:
        return f"SELECT id, -(vector <#> %(query)s) FROM {table} ORDER BY vector <#> %(query)s LIMIT %(limit)s"  # noqa: S608
    if dimension <= 4000:
        half = f"halfvec({dimension})"
        order = f"vector::{half} <#> %(query)s::vector::{half}"
    else:
        bits = f"bit({dimension})"
        order = f"binary_quantize(vector)::{bits} <~> binary_quantize(%(query)s::vector)::{bits}"
    return (
        f"SELECT id, -(vector <#> %(query)s) FROM (SELECT id, vector FROM {table} ORDER BY {order} LIMIT %(reach)s) "  # noqa: S608
        "AS candidates ORDER BY vector <#> %(query)s LIMIT %(limit)s"
    )


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'

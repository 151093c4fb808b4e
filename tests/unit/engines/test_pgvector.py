"""The SQL for vectors of any width; `make stacks` runs it on a real PostgreSQL."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama2vec.engines.engine import About
from llama2vec.engines.pgvector import Pgvector, _index_name, _indexed, nearest_sql, quoted
from llama2vec.errors import EngineError
from llama2vec.records import Passage


class PostgresError(Exception):
    """What psycopg raises."""


class Connection:
    """A connection that the server can close."""

    def __init__(self, server: Server) -> None:
        self.server, self.closed = server, False
        server.connections.append(self)

    def execute(self, statement: str, parameters: Any = None) -> SimpleNamespace:
        if self.closed or self.server.is_down:
            self.closed = True
            raise PostgresError("the connection is closed")
        if statement.startswith("CREATE EXTENSION"):
            if self.server.only_reads:
                raise PostgresError("cannot execute CREATE EXTENSION in a read-only transaction")
            self.server.has_extension = True
        if statement.startswith("SELECT nonsense"):
            raise PostgresError("syntax error")
        about = About(contract_hash="c0ffee", dimension=2).model_dump_json()
        return SimpleNamespace(fetchone=lambda: ("t", about), fetchall=lambda: [("a", 0.5)])

    def close(self) -> None:
        self.closed = True


class Server:
    """A PostgreSQL, and stand-ins for the packages that talk to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connections: list[Connection] = []
        self.has_extension = self.is_down = self.only_reads = False
        modules = {name: ModuleType(name) for name in ("psycopg", "psycopg.types.json", "pgvector", "pgvector.psycopg")}
        database: Any = modules["psycopg"]
        database.Error = database.ProgrammingError = PostgresError
        database.connect = self._connected
        modules["psycopg.types.json"].Jsonb = modules["pgvector"].SparseVector = None  # type: ignore[attr-defined]
        modules["pgvector.psycopg"].register_vector = self._registered  # type: ignore[attr-defined]
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def _connected(self, at: str, **options: Any) -> Connection:
        self.options = options
        if self.is_down:
            raise PostgresError("connection refused")
        return Connection(self)

    def _registered(self, connection: Connection) -> None:
        if not self.has_extension:
            raise PostgresError("vector type not found in the database")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def opened() -> Pgvector:
    return Pgvector("postgresql://host/base", "t", token="", timeout=3)


def test_a_connection_that_the_server_closed_is_made_again(server: Server) -> None:
    engine = opened()
    server.connections[0].closed = True
    assert engine.about() is not None
    server.connections[1].closed = True
    assert engine.search(np.zeros((1, 2), np.float32), 3) == [[("a", 0.5)]]
    assert len(server.connections) == 3
    server.is_down = True
    with pytest.raises(EngineError, match=r"PostgreSQL at .*connection refused"):
        engine.about()
    server.is_down = False
    assert engine.about() is not None


def test_a_host_that_drops_packets_is_noticed_as_quickly_as_the_first_answer_may_take(server: Server) -> None:
    opened()
    assert server.options == {"autocommit": True, "connect_timeout": 3, "tcp_user_timeout": 3000}


def test_other_errors_are_not_tried_again(server: Server) -> None:
    engine = opened()
    with pytest.raises(PostgresError, match="syntax error"):
        engine._read(lambda: engine._database.execute("SELECT nonsense"))
    assert len(server.connections) == 1


def test_the_extension_is_made_only_where_it_is_missing(server: Server) -> None:
    server.only_reads = True
    with pytest.raises(EngineError, match=r"lacks pgvector: cannot execute CREATE EXTENSION .*; install it there"):
        opened()
    assert server.connections[0].closed
    server.has_extension = True
    assert opened().about() is not None


@pytest.mark.parametrize(
    ("dimension", "index", "order"),
    [
        (2000, "vector vector_ip_ops", "vector <#> %(query)s LIMIT %(limit)s"),
        (2001, "(vector::halfvec(2001)) halfvec_ip_ops", "vector::halfvec(2001) <#> %(query)s::vector::halfvec(2001)"),
        (4096, "(binary_quantize(vector)::bit(4096)) bit_hamming_ops", "binary_quantize(vector)::bit(4096) <~>"),
    ],
)
def test_wide_vectors_are_indexed_in_fewer_bits_and_ranked_in_all(dimension: int, index: str, order: str) -> None:
    assert _indexed(dimension) == index
    assert f"ORDER BY {order}" in nearest_sql("t", dimension)
    assert nearest_sql("t", dimension).endswith("ORDER BY vector <#> %(query)s LIMIT %(limit)s")


def test_names_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'


def test_tables_that_begin_alike_have_indexes_of_their_own() -> None:
    names = {_index_name(quoted("a" * 50 + end)) for end in ("b", "c")}
    assert len(names) == 2
    assert max(map(len, names)) <= 63 + 2


def test_a_passage_of_too_many_words_is_named_with_their_number(server: Server) -> None:
    server.has_extension = True
    why_not = opened().why_not
    assert why_not(Passage("1", "x"), 16_000) is None
    assert why_not(Passage("1", "x"), 16_001) == "it has 16,001 different words, and pgvector's sparsevec takes 16,000"
    assert why_not(Passage("é" * 1301, "x"), 0) == "its id has 2,602 bytes, and PostgreSQL's keys take 2,600"

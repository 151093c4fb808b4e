"""Engines are found by name; each prints Python that searches it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from llama2vec.engines.opening import ENGINES, Target
from llama2vec.errors import ConfigError, MissingDependencyError

CLIENTS = {
    "milvus": "pymilvus", "qdrant": "qdrant_client", "pgvector": "psycopg", "lancedb": "lancedb",
    "opensearch": "opensearchpy",
}  # fmt: skip


@pytest.mark.parametrize("kind", ENGINES)
def test_a_client_that_is_not_installed_is_named_with_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, CLIENTS[kind], None)
    with pytest.raises(MissingDependencyError, match=rf"not installed; run: pip install 'llama2vec\[{kind}\]'"):
        Target(kind, "somewhere", "passages").open()


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'excel'; choose one of milvus, qdrant, pgvector"):
        Target("excel", "sheet", "a").open()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("milvus", "my notes"), ("milvus", "2026"), ("qdrant", "a/b"), ("qdrant", ".."), ("qdrant", ""),
        ("lancedb", "a b"), ("lancedb", "."), ("opensearch", "Notes"), ("opensearch", "_notes"),
        ("pgvector", "é" * 32), ("pgvector", 'a"b'), ("pgvector", "50%"), ("pgvector", "a#b"), ("qdrant", "a#b"),
    ],
)  # fmt: skip
def test_a_name_that_the_engine_cannot_have_is_refused_before_anything_else(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind} takes names of"):
        Target(kind, "http://localhost:1", name).open()


def test_a_folder_means_the_same_in_every_working_directory() -> None:
    assert Target("lancedb", "base", "a").settled().at == str(Path.cwd() / "base")
    assert Target("qdrant", "http://host:6333", "a").settled().at == "http://host:6333"


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("language", [None, "de"])
@pytest.mark.parametrize("dimension", [64, 3000, 4096])
def test_a_snippet_is_python_and_names_everything(kind: str, language: str | None, dimension: int) -> None:
    text = Target(kind, "https://it's.example", "passages").snippet("models/it's", dimension, language)
    compile(text, kind, "exec")
    for given in (repr("models/it's"), repr("https://it's.example"), "contract_hash"):
        assert given in text
    assert "passages" in text
    assert ("words" in text) == (language is not None)


def test_a_snippet_holds_no_password() -> None:
    text = Target("pgvector", "postgresql://me:secret@host/base", "passages").snippet("m", 8, None)
    assert "secret" not in text
    assert text.startswith("# Put the password in the place of ***.")


@pytest.mark.parametrize("kind", ENGINES)
def test_a_snippet_takes_the_password_or_key_from_where_the_export_did(kind: str) -> None:
    text = Target(kind, "https://host:1", "passages").snippet("m", 8, None)
    assert 'os.environ.get("LLAMA2VEC_ENGINE_TOKEN"' in text
    assert "import os\n" in text


@pytest.mark.parametrize("name", ["passages", "it's {a} \\n", "'''"])
@pytest.mark.parametrize("dimension", [64, 3000, 4096])
def test_a_condition_stands_where_postgres_reads_the_index(name: str, dimension: int) -> None:
    text = Target("pgvector", "postgresql://host/base", name).snippet("m", dimension, None)
    line = next(line for line in text.splitlines() if line.startswith("nearest = "))
    assert "set hnsw.iterative_scan = strict_order" in text
    place = f'FROM "{name}" where true ORDER BY'
    assert place in ast.literal_eval(line.removeprefix("nearest = ")).format(condition="where true")


def test_a_snippet_names_a_folder_or_an_address() -> None:
    local, remote = Target("qdrant", "folder", "p"), Target("qdrant", "http://host:6333", "p")
    assert f"QdrantClient(path={str(Path.cwd() / 'folder')!r})" in local.snippet("m", 8, None)
    assert "QdrantClient(url='http://host:6333', api_key=os.environ.get(" in remote.snippet("m", 8, None)


@pytest.mark.parametrize(("kind", "at"), [("qdrant", "base"), ("lancedb", "./base"), ("milvus", "base.db")])
@pytest.mark.parametrize("language", [None, "en"])
def test_a_snippet_of_a_folder_works_in_every_folder(kind: str, at: str, language: str | None) -> None:
    text = Target(kind, at, "p").snippet("m", 8, language)
    assert repr(str(Path.cwd() / at)) in text
    assert repr(at) not in text


@pytest.mark.parametrize("language", [None, "en"])
@pytest.mark.parametrize("at", ["base", "http://host:6333"])
def test_the_snippet_of_qdrant_closes_what_it_opened(at: str, language: str | None) -> None:
    text = Target("qdrant", at, "p").snippet("m", 8, language)
    assert text.splitlines()[-1] == "client.close()"
    assert text.count("client.close()") == 1


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("qdrant:http://host:6333#a", Target("qdrant", "http://host:6333", "a")),
        ("pgvector:postgresql://me@host/base#the table", Target("pgvector", "postgresql://me@host/base", "the table")),
        ("milvus:folder/#1.db#a", Target("milvus", "folder/#1.db", "a")),
    ],
)
def test_a_collection_is_written_in_one_word(written: str, target: Target) -> None:
    assert Target.parse(written) == target


@pytest.mark.parametrize("written", ["", "qdrant", "qdrant:http://host", "qdrant:#a", "excel:sheet#a", "qdrant:a#"])
def test_half_a_collection_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="write ENGINE:ADDRESS#COLLECTION, such as"):
        Target.parse(written)


def test_an_index_keeps_no_password() -> None:
    with pytest.raises(ConfigError, match=r"put it into \$LLAMA2VEC_ENGINE_TOKEN") as raised:
        Target.parse("pgvector:postgresql://me:secret@host/base#a")
    assert "secret" not in str(raised.value)

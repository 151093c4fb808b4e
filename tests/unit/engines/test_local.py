"""Folders of engines without a server: only their own are changed, and only an export makes one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from llama2vec.engines.local import check_address, check_there, local_path, opening_errors
from llama2vec.engines.opening import Target
from llama2vec.errors import ConfigError, EngineError, OutputExistsError


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("unable to open")
    error.sqlite_errorcode = code
    return error


OWN = {"lancedb": ("base", "a.lance"), "qdrant": ("base", "meta.json"), "milvus": ("base.db", "databases")}


@pytest.mark.parametrize("kind", OWN)
def test_a_folder_of_something_else_is_refused_and_the_engines_own_is_taken(kind: str, tmp_path: Path) -> None:
    name, mark = OWN[kind]
    folder = tmp_path / name
    check_address(kind, str(folder))
    folder.mkdir()
    (folder / ".lock").touch()
    check_address(kind, str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(OutputExistsError, match=f"exists and does not hold data of {kind}"):
        Target(kind, str(folder), "passages").open()
    (folder / mark).mkdir()
    check_address(kind, str(folder))


@pytest.mark.parametrize("kind", OWN)
def test_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_bytes(b"SQLite format 3")
    with pytest.raises(OutputExistsError, match="does not hold data"):
        Target(kind, str(tmp_path / "mine.db"), "passages").open()


@pytest.mark.parametrize("kind", OWN)
def test_looking_into_a_folder_that_is_not_there_does_not_make_it(kind: str, tmp_path: Path) -> None:
    missing = tmp_path / OWN[kind][0]
    with pytest.raises(EngineError, match=f"no data of {kind} lies here; correct the path"):
        Target(kind, str(missing), "passages").open_existing()
    assert not missing.exists()
    check_there(kind, "http://localhost:1")


@pytest.mark.parametrize(("kind", "at"), [("qdrant", "localhost:6333"), ("lancedb", "db.example.org:80/x")])
def test_a_server_without_its_scheme_is_no_folder(kind: str, at: str) -> None:
    with pytest.raises(ConfigError, match=f"would take this for a folder; write http://{at} for a server"):
        Target(kind, at, "passages").open()
    check_address(kind, f"./{at}")


@pytest.mark.parametrize("kind", ["milvus", "qdrant", "pgvector", "lancedb", "opensearch"])
def test_an_empty_address_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"the address of {kind} is empty"):
        Target(kind, " ", "passages").open()


@pytest.mark.parametrize(
    ("at", "problem", "message"),
    [
        ("base", PermissionError(13, "Permission denied"), "base cannot be written (Permission denied); check"),
        ("base", OSError(28, "No space left on device"), "disk full while writing base; free space"),
        ("base", sqlite_error(14), "base cannot be written (unable to open); check the folder and the disk"),
        ("base", RuntimeError("bad manifest"), "Qdrant cannot open base (bad manifest); check the folder"),
        ("base", EngineError("base is open"), "base is open"),
        ("http://h:1", OSError(111, "refused"), "Qdrant at http://h:1 cannot be reached"),
    ],
)
def test_a_folder_that_cannot_be_opened_is_no_server_that_cannot_be_reached(
    at: str, problem: Exception, message: str
) -> None:
    with pytest.raises(EngineError) as caught, opening_errors("Qdrant", "qdrant", at, (RuntimeError, OSError)):
        raise problem
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind", ["lancedb", "qdrant"])
def test_a_folder_below_a_file_is_named(kind: str, tmp_path: Path) -> None:
    pytest.importorskip({"lancedb": "lancedb", "qdrant": "qdrant_client"}[kind])
    (tmp_path / "file").touch()
    with pytest.raises(
        EngineError, match=r"inner cannot be written \(Not a directory\); check the folder and the disk"
    ):
        Target(kind, str(tmp_path / "file" / "inner"), "passages").open()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(EngineError, match=r"cannot be written \(Permission denied\)"):
        check_address("qdrant", str(tmp_path))
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(EngineError, match=r"cannot be written \(Permission denied\)"):
        check_there("qdrant", str(tmp_path))


def test_servers_have_no_folder() -> None:
    assert local_path("opensearch", "host") is None
    assert local_path("lancedb", "s3://bucket/base") is None
    assert local_path("milvus", "passages") is None

"""What ``llama2vec serve`` refuses before it listens, and which host names it answers to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.cli.serve import _allowed_hosts, _read_token
from llama2vec.errors import ConfigError
from llama2vec.model.source import QUERY_TABLE_FILE
from llama2vec.serve.settings import ProxySettings


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "name an index to search, or an encoder with --model"),
        (["nothing"], "no index at nothing"),
        (
            ["--model", "m", "--table", "nothing"],
            "--table nothing: holds no query table; make one with `llama2vec distill`",
        ),
        (["--model", "m", "--files", "."], "--files .: documents are those of an index; name one, or drop --files"),
        (["--model", "m", "--files", "auto"], "--files auto: documents are those of an index"),
        (["--model", "m", "--max-batch", 0], "--max-batch 0: input should be greater than or equal to 1"),
        (["--model", "m", "--timeout", "nan"], "--timeout nan: input should be less than or equal to 86400"),
        (["--model", "m", "--grace", -1], "--grace -1: input should be greater than or equal to 0"),
        (["--model", "m", "--max-waiting", 1], "--max-waiting 1 must be at least --max-texts 2048"),
    ],
)
def test_a_mistake_is_one_line(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in command_line.refused("serve", *options)


def test_a_query_table_needs_an_index_and_stands_for_one_model(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / QUERY_TABLE_FILE).write_text("{}")
    assert "encodes queries alone; name an index" in command_line.refused("serve", "--model", "table")
    assert "encodes queries alone; name an index" in command_line.refused("serve", "--model", "m", "--table", "table")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text("{}")
    twice = ("--model", "table", "--table", "table")
    assert "is a query table already; drop --table" in command_line.refused("serve", "index", *twice)
    for option in (("--name", "n"), ("--dtype", "float32"), ("--device", "cpu"), ("--prompts", "e5"), ("--set", "a=b")):
        refused = command_line.refused("serve", "index", "--model", "table", *option)
        assert f"{option[0]} belongs to a model, and --model table is a query table" in refused


def test_it_looks_for_an_index_where_search_does(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "home" / "index").mkdir(parents=True)
    assert "no index at" in command_line.refused("serve", tmp_path / "home")
    (tmp_path / "home" / "index" / "index.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = command_line.refused("serve", tmp_path / "home", "--port", taken.getsockname()[1])
    assert "address already in use" in line


def test_the_token_comes_from_a_regular_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA2VEC_TOKEN", " sesame ")
    assert _read_token(None) == "sesame"
    file = tmp_path / "token"
    file.write_text("sésame\n", encoding="utf-8")
    assert _read_token(file) == "sésame"
    os.mkfifo(tmp_path / "fifo")
    file.write_bytes(b"\xff\xfe\x00")
    faults = {
        "fifo": "not a regular file",
        "": "not a regular file",
        "nothing": "No such file",
        "token": "not valid UTF",
    }
    for name, fault in faults.items():
        with pytest.raises(ConfigError, match=rf"cannot be read \({fault}"):
            _read_token(tmp_path / name)
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        _read_token(file)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_on_a_loopback_address_only_loopback_names_are_answered(host: str) -> None:
    allowed = _allowed_hosts(host, ["Search.example"])
    assert allowed is not None
    assert {"localhost", "127.0.0.1", "::1", host, "search.example"} == set(allowed)


def test_an_address_for_other_machines_answers_to_any_name_unless_told() -> None:
    assert _allowed_hosts("192.0.2.7", None) is None
    assert "search.example" in (_allowed_hosts("192.0.2.7", ["search.example"]) or ())


def test_a_host_that_no_request_can_name_is_refused() -> None:
    for host in ("a b/", "http://search.example", "search.example:80", "", "."):
        with pytest.raises(ValueError, match="is not a host name"):
            ProxySettings(allow_host=[host])
    good = ["search.example.org", "localhost", "10.0.0.7", "fe80::1"]
    assert ProxySettings(allow_host=good).allow_host == good
    assert ProxySettings(allow_host=["[::1]", "search.example.org."]).allow_host == ["::1", "search.example.org"]


def test_an_encoder_in_the_place_of_an_index_is_named_with_its_option(
    command_line: CommandLine, tmp_path: Path
) -> None:
    for file in ("llama2vec.json", "config.json"):
        (tmp_path / file).write_text("{}")
    for folder in (tmp_path, "llama2vec-smollm2-135m"):
        told = command_line.refused("serve", folder)
        assert f"no index at {folder}: it is an encoder, which `llama2vec serve --model {folder}` serves" in told

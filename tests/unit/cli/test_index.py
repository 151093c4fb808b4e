"""`llama2vec index`, over a store of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.records import Passage
from llama2vec.retrieve.store_writer import write_store

CPU = ["--dtype", "float32", "--device", "cpu"]


def test_an_index_says_what_was_made_and_bm25_is_added(store: Path, tmp_path: Path, command_line: CommandLine) -> None:
    index = tmp_path / "i"
    assert command_line("index", store, "-o", index).out == f"Indexed 24 passages [exact] to {index}\n"
    assert command_line("index", store, "-o", index, "--bm25").out == f"Indexed 24 passages [bm25] to {index}\n"
    done = command_line("index", store, "-o", index, "--bm25")
    assert (done.code, done.out) == (0, f"{index} is already done; nothing to do\n")
    assert "--overwrite" in command_line.refused("index", store, "-o", index, "--bm25", "--language", "de")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bm25", "--language", "english"], "--language: 'english' is"),
        (["--bm25", "--language", ""], "--language: '' is"),
        (["--kind", ""], "unknown index kind ''"),
        (["--kind", "annoy"], "choose one of exact, faiss-flat"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    store: Path, tmp_path: Path, command_line: CommandLine, options: list[str], words: str
) -> None:
    assert words in command_line.refused("index", store, "-o", tmp_path / "i", *options)
    assert not list(tmp_path.iterdir())


def test_a_store_without_vectors_gets_bm25(tmp_path: Path, command_line: CommandLine) -> None:
    write_store(lambda: iter([Passage("a", "river stone")]), None, tmp_path / "s", source={"corpus": "c.jsonl"})
    done = command_line("index", tmp_path / "s", "-o", tmp_path / "i")
    assert done.out == f"Indexed 1 passage [bm25] to {tmp_path / 'i'}\n"
    assert "a\n     river stone" in command_line("search", tmp_path / "i", "river").out
    assert "add vectors: `llama2vec encode MODEL c.jsonl" in command_line.refused(
        "search", tmp_path / "i", "river", "--mode", "dense"
    )

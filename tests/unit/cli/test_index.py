"""`llama2vec index`, over a store of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory_engine import MemoryEngine
from running import CommandLine

from llama2vec.engines.opening import Target
from llama2vec.records import Passage
from llama2vec.retrieve.store.writer import write_store

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
        (["--language", "de"], "--language sets the language of BM25; add --bm25"),
        (["--kind", ""], "unknown index kind ''"),
        (["--kind", "annoy"], "choose one of exact, faiss-flat"),
        (["--recall", "98"], "--recall 98.0: give a share above 0 and up to 1, such as 0.98"),
        (["--dims", "8"], "--dims: an exact index compares all dimensions"),
        (["--kind", "faiss-binary", "--dims", "32"], "--dims 32: the vectors of"),
        (["--engine", "qdrant"], "write ENGINE:ADDRESS#COLLECTION, such as qdrant:http"),
        (
            ["--engine", "qdrant:http://127.0.0.1:9#a", "--kind", "exact"],
            "--engine: the engine has an index of its own",
        ),
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


def test_a_compressed_index_says_what_it_holds_and_finds(
    store: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    index = tmp_path / "i"
    done = command_line("index", store, "-o", index, "--kind", "faiss-binary", "--recall", "0.98")
    first, facts = done.out.splitlines()
    assert first == f"Indexed 24 passages [faiss-binary] to {index}"
    assert "bytes a passage; " in facts
    assert "recall@10 1.000 on sampled passages (asked for: 0.98)" in facts
    found = command_line("search", index, "a river", "--json", *CPU)
    assert found.code == 0
    assert found.out == command_line("search", store, "a river", "--json", *CPU).out.replace(str(store), str(index))


def test_an_engine_finds_the_vectors_of_a_search(
    store: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, index = MemoryEngine(), tmp_path / "i"
    monkeypatch.setattr(Target, "open", lambda target, timeout=10.0: engine)
    asked = ("index", store, "-o", index, "--engine", "qdrant:http://host:6333#a", "--bm25")
    assert "the collection in memory does not exist; export" in command_line.refused(*asked)
    command_line("export", store, "--to", "qdrant", "--at", "http://host:6333", "--collection", "a")
    assert command_line(*asked).out == f"Indexed 24 passages [engine, bm25] to {index}\n"
    found = command_line("search", index, "a river", "--mode", "dense", "--json", *CPU)
    assert found.code == 0
    assert found.out == command_line("search", store, "a river", "--json", *CPU).out
    engine.content = None
    assert "the collection in memory does not exist" in command_line.refused("search", index, "a river", *CPU)

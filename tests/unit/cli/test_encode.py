"""``llama2vec encode``: a corpus into a store, resumed, reused, refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import CommandLine

from llama2vec.model.encoder import Encoder
from llama2vec.retrieve.store.reader import VectorStore


@pytest.fixture
def store(command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path) -> Path:
    done = command_line("encode", llama_folder, corpus_file, "--output", tmp_path / "store", "--shard-size", 10)
    assert done.code == 0, done.err
    assert "Encoded 24 passages [D=32] to" in done.err + done.out
    return tmp_path / "store"


def test_one_passage_is_told_in_the_singular(command_line: CommandLine, llama_folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "A llama."}\n', encoding="utf-8")
    done = command_line("encode", llama_folder, corpus, "-o", tmp_path / "store")
    assert "Encoded 1 passage [D=32] to" in done.err + done.out
    indexed = command_line("index", tmp_path / "store", "-o", tmp_path / "index").out
    assert indexed == f"Indexed 1 passage [exact] to {tmp_path / 'index'}\n"


def test_the_same_command_again_changes_nothing(
    command_line: CommandLine, store: Path, llama_folder: Path, corpus_file: Path
) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.iterdir()}
    assert command_line("encode", llama_folder, corpus_file, "-o", store, "--shard-size", 10).code == 0
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.iterdir()} == before


def test_an_older_store_gives_the_vectors_of_texts_that_it_has(
    command_line: CommandLine, store: Path, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "longer.jsonl"
    new = json.dumps({"_id": "new", "text": "A lantern stands on the bridge."})
    longer.write_text(f"{corpus_file.read_text(encoding='utf-8')}{new}\n", encoding="utf-8")
    done = command_line("encode", llama_folder, longer, "-o", tmp_path / "next", "--reuse", store)
    assert "24 of them taken from" in done.err + done.out
    old, found = VectorStore.open(store), VectorStore.open(tmp_path / "next")
    np.testing.assert_array_equal(found.vectors(range(24)), old.vectors(range(24)))
    assert found.passage(24).id == "new"


def test_half_precision_and_other_settings_need_overwrite(
    command_line: CommandLine, store: Path, llama_folder: Path, corpus_file: Path
) -> None:
    again = ("encode", llama_folder, corpus_file, "-o", store, "--shard-size", 10, "--half")
    assert "--overwrite" in command_line.refused(*again)
    assert command_line(*again, "--overwrite").code == 0
    assert {shard.dtype for _, shard in VectorStore.open(store).shards()} == {np.dtype("float16")}
    assert command_line(*again[:-1], "--int8", "--overwrite").code == 0
    assert VectorStore.open(store).dtype == "int8"
    assert "half and int8 are two formats of the vectors; choose one" in command_line.refused(*again, "--int8")


def test_mistakes_are_refused_before_anything_is_written(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new"
    assert str(output) in command_line.refused("encode", llama_folder, corpus_file, "-o", output, "--reuse", output)
    for inside in (llama_folder / "store", corpus_file.parent / "store"):
        line = command_line.refused("encode", llama_folder, corpus_file.parent, "-o", inside)
        assert "lies inside the input" in line
        assert not inside.exists()
    faulty = tmp_path / "faulty.jsonl"
    faulty.write_text('{"_id": "a", "text": "fine"}\n{"_id": "b"}\n', encoding="utf-8")
    assert "faulty.jsonl:2" in command_line.refused("encode", llama_folder, faulty, "-o", output)
    assert not output.exists()


def test_documents_and_rows_are_read_as_set_and_the_table_ends_the_output(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"key": "a", "body": "A llama.", "year": 2020}\n', encoding="utf-8")
    assert "(reading.id_field)" in command_line.refused("encode", llama_folder, rows, "-o", tmp_path / "store")
    sets = ["--set", "reading.text_field=body", "--set", "reading.id_field=key"]
    done = command_line("encode", llama_folder, rows, "-o", tmp_path / "store", *sets, "--set", "passage_max_tokens=9")
    assert done.code == 0, done.err
    store = VectorStore.open(tmp_path / "store")
    assert (store.passage(0).id, store.passage(0).text) == ("a", "A llama.")
    assert store.source["reading"] == {"text_field": "body", "id_field": "key"}
    assert "skipped" not in done.out
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "old.txt").write_bytes("Ein weiß gestrichenes Häuschen.".encode("cp1252"))
    (docs / "draft.md").write_text("A draft.\n", encoding="utf-8")
    (docs / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    call = ["encode", llama_folder, docs, "-o", tmp_path / "vectors", "--set", 'reading.exclude=["draft*"]']
    done = command_line(*call, "--set", "reading.encoding=cp1252")
    assert [line.split()[:3] for line in done.out.splitlines()[-3:]] == [
        ["read", "1", "file"], ["skipped", "1", "a"], ["skipped", "1", "excluded"],
    ]  # fmt: skip
    assert [one.text for one in VectorStore.open(tmp_path / "vectors").passages([0])] == [
        "Ein weiß gestrichenes Häuschen."
    ]
    assert "photo.png" not in done.err
    strict = command_line.refused(*call[:4], tmp_path / "strict", "--set", "reading.strict=true")
    assert "photo.png" in strict
    assert not (tmp_path / "strict").exists()
    assert "did you mean 'reading.text_field'" in command_line.refused(
        *call[:4], tmp_path / "no", "--set", "reading.text_fild=b"
    )


def test_a_corpus_that_is_saved_while_the_model_loads_leaves_no_store(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path, saved_meanwhile: Callable[[Path, str, str], None]
) -> None:
    corpus, store = tmp_path / "corpus.jsonl", tmp_path / "store"
    rows = [f'{{"_id": "{row}", "text": "the old text {row}"}}\n' for row in range(3)]
    corpus.write_text("".join(rows), encoding="utf-8")
    saved_meanwhile(corpus, "old", "newer")
    failed = command_line("encode", llama_folder, corpus, "-o", store, "--shard-size", 2)
    assert failed.code == 2
    assert "corpus.jsonl changed while it was read; run the same command again" in failed.err
    assert not store.exists()
    assert command_line("encode", llama_folder, corpus, "-o", store).code == 0
    assert VectorStore.open(store).passage(0).text == "the newer text 0"


def test_a_store_is_encoded_in_one_number_format(
    command_line: CommandLine,
    llama_folder: Path,
    corpus_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Encoder.load(llama_folder, device="cpu", dtype="float32").save(tmp_path / "model")
    call = ["encode", tmp_path / "model", corpus_file, "-o", tmp_path / "store", "--shard-size", 10, "--device", "cpu"]
    assert command_line(*call, "--dtype", "bfloat16").code == 0
    assert command_line(*call).code == 0
    assert "computed in" not in caplog.text
    assert command_line(*call, "--dtype", "float32").code == 0
    assert "was computed in bfloat16, not float32; to encode it again, pass --overwrite" in caplog.text
    for part in (tmp_path / "store").glob("shard-00001.*"):
        part.unlink()
    refused = command_line.refused(*call, "--dtype", "float32")
    assert "begun with bfloat16, not float32; pass --dtype bfloat16, or --overwrite" in refused
    assert command_line(*call, "--dtype", "bfloat16").code == 0
    reused = ["encode", *call[1:3], "-o", tmp_path / "next", "--device", "cpu", "--reuse", tmp_path / "store"]
    assert "pass --dtype bfloat16, or leave out --reuse" in command_line.refused(*reused, "--dtype", "float32")
    assert command_line(*call, "--dtype", "float32", "--overwrite").code == 0
    assert VectorStore.open(tmp_path / "store").compute_dtype == "float32"

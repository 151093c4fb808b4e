"""``llama2vec read``: documents into a corpus of passages that every command takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.cli.serve import _check_files
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.reading import documents_folder
from llama2vec.errors import ConfigError
from llama2vec.retrieve.search.hits import corpus_folder
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.serve.settings import ServeSettings


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    body = " ".join(f"The crane number {number} flies over the river." for number in range(40))
    (folder / "big one.md").write_text(f"---\nyear: 2020\n---\n# Cranes\n\n## Flight\n\n{body}\n", encoding="utf-8")
    (folder / "small.txt").write_text("A llama hums.\n", encoding="utf-8")
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    return folder


def test_documents_become_passages_with_place_and_fields(
    command_line: CommandLine, docs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    corpus = tmp_path / "corpus.jsonl"
    done = command_line("read", docs, "-o", corpus, "--set", "passages.tokens=60", "--set", "passages.overlap=0")
    assert done.code == 0, done.err
    found = list(read_passages(corpus))
    assert f"Wrote {len(found)} passages of at most 60 words to {corpus}" in done.out
    assert any(line.startswith(f"reading: {len(found)} passages, ") for line in caplog.messages)
    assert "skipped     1" in done.out
    assert "photo.png" in done.out
    assert len(found) > 4
    text = (docs / "big one.md").read_text(encoding="utf-8")
    for passage in found[:-1]:
        assert passage.place is not None
        assert passage.place.first_line is not None
        assert passage.text.split("\n")[0][:20] in text.split("\n")[passage.place.first_line - 1]
        assert passage.fields["year"] == 2020
    assert (found[1].id, found[1].title) == ("big%20one.md#2", "Cranes › Flight")
    assert (found[-1].id, found[-1].text) == ("small.txt", "A llama hums.")
    assert "--overwrite" in command_line.refused("read", docs, "-o", corpus)
    assert command_line("read", docs, "-o", corpus, "--set", "passages.split=never", "--overwrite").code == 0
    assert len(list(read_passages(corpus))) == 2


def test_passages_are_measured_in_the_tokens_of_a_model_as_encode_does(
    command_line: CommandLine, docs: Path, llama_folder: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    assert "of at most 40 tokens" in command_line(
        "read", docs, "-o", corpus, "--model", llama_folder, "--set", "passages.tokens=40"
    ).out  # fmt: skip
    encoded = command_line("encode", llama_folder, docs, "-o", tmp_path / "store", "--set", "passages.tokens=40")
    assert encoded.code == 0, encoded.err
    stored = (tmp_path / "store" / "shard-00000.passages.jsonl").read_text(encoding="utf-8")
    assert stored == corpus.read_text(encoding="utf-8")
    source = json.loads((tmp_path / "store" / "store.json").read_text(encoding="utf-8"))["settings"]["source"]
    assert (source["folder"], source["passages"]["tokens"]) == (str(docs), 40)


def test_rows_of_a_corpus_are_split_only_when_asked_and_cut_ones_are_counted(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = tmp_path / "rows.jsonl"
    rows = [{"_id": "long", "text": "river stone " * 400}, {"_id": "short", "text": "A llama."}]
    corpus.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert command_line("encode", llama_folder, corpus, "-o", tmp_path / "cut").code == 0
    assert "the model reads only the beginning of 1 of 2 passages (50 %)" in caplog.text
    assert "--set passages.split=always" in caplog.text
    caplog.clear()
    split = command_line("encode", llama_folder, corpus, "-o", tmp_path / "split", "--set", "passages.split=always")
    assert split.code == 0, split.err
    assert "reads only the beginning" not in caplog.text
    assert len((tmp_path / "split" / "shard-00000.passages.jsonl").read_text(encoding="utf-8").splitlines()) > 2


def test_mistakes_are_one_line(command_line: CommandLine, docs: Path, llama_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus.jsonl"
    strict = command_line.refused("read", docs, "-o", output, "--strict")
    assert "photo.png" in strict
    assert not output.exists()
    strict = command_line.refused("encode", llama_folder, docs, "-o", tmp_path / "store", "--strict")
    assert "photo.png" in strict
    assert not (tmp_path / "store").exists()
    assert "cannot hold passages" in command_line.refused("read", docs, "-o", tmp_path / "corpus.txt")
    assert "split" in command_line.refused("read", docs, "-o", output, "--set", "passages.split=sometimes")
    long = command_line.refused("read", docs, "-o", output, "--model", llama_folder, "--set", "passages.tokens=9000")
    assert "longer than the" in long


def test_an_index_made_from_the_file_knows_where_the_documents_lie(
    command_line: CommandLine, docs: Path, llama_folder: Path, tmp_path: Path
) -> None:
    corpus, side = tmp_path / "corpus.jsonl", tmp_path / "corpus.jsonl.reading.json"
    assert command_line("read", docs, "-o", corpus).code == 0
    known = json.loads(side.read_text(encoding="utf-8"))
    assert (known["folder"], known["files"]) == (str(docs), 2)
    assert known["skipped"] == [{"name": "photo.png", "reason": "a picture"}]
    assert command_line("encode", llama_folder, corpus, "-o", tmp_path / "store").code == 0
    store = VectorStore.open(tmp_path / "store")
    assert corpus_folder(store) == docs
    _check_files(ServeSettings(files=Path("auto")), tmp_path / "store")
    # Through another file, and not through one that was changed since.
    again = tmp_path / "again.jsonl"
    assert command_line("read", corpus, "-o", again, "--set", "passages.split=always").code == 0
    assert documents_folder(again) == {"folder": str(docs)}
    with again.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "more", "text": "x"}\n')
    assert documents_folder(again) == {}
    # A file of somebody else's is never replaced, and a corpus of rows has no such file.
    side.write_text('{"mine": 1}', encoding="utf-8")
    assert "corpus.jsonl.reading.json" in command_line.refused("read", docs, "-o", corpus, "--overwrite")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"_id": "a", "text": "x"}\n', encoding="utf-8")
    assert command_line("read", rows, "-o", tmp_path / "plain.jsonl").code == 0
    assert not (tmp_path / "plain.jsonl.reading.json").exists()


def test_files_of_an_index_without_a_folder_are_refused(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    assert command_line("encode", llama_folder, corpus_file, "-o", tmp_path / "store").code == 0
    with pytest.raises(ConfigError, match="names no folder of documents"):
        _check_files(ServeSettings(files=Path("auto")), tmp_path / "store")

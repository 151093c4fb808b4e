"""`llama2vec sync`, over a small folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from encoders import encoder_for
from running import CommandLine

from llama2vec.retrieve.store.reader import VectorStore

CPU = ["--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# River\n\nA stone bridge crosses the river.")
    (folder / "b.txt").write_text("The market opens in winter.")
    (folder / "c.png").write_bytes(b"\x89PNG")
    for path in folder.iterdir():
        os.utime(path, (10**9, 10**9))
    return folder


def test_a_folder_is_searchable_by_words_at_once_and_only_changes_are_read(
    docs: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    index = tmp_path / "index"
    first = command_line("sync", docs, index)
    assert f"{index}: 2 files added; 2 passages without vectors; " in first.out
    assert "  skipped     1  a picture: c.png\n" in first.out
    assert "a.md" in command_line("search", index, "bridge").out
    (docs / "b.txt").write_text("The harbor opens in winter.")
    assert "1 file changed, 1 unchanged; 2 passages" in command_line("sync", docs, index).out
    assert "2 files unchanged; 2 passages" in command_line("sync", docs, index).out
    assert "b.txt" in command_line("search", index, "harbor").out
    assert "add vectors: `llama2vec sync" in command_line.refused("search", index, "harbor", "--mode", "dense")


def test_a_model_adds_vectors_and_is_remembered(
    docs: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    index = tmp_path / "index"
    first = command_line("sync", docs, index, "--model", llama_folder, *CPU)
    assert f"{index} can be searched with BM25 now; vectors for 2 passages come next." in first.err
    assert f"{index}: 2 files added; 2 passages, 2 of them newly encoded; " in first.out
    (docs / "b.txt").write_text("The harbor opens in winter.")
    assert "2 passages, 1 of them newly encoded; " in command_line("sync", docs, index, *CPU).out
    found = command_line("search", index, "harbor", "--mode", "hybrid", *CPU)
    assert (found.code, found.out.splitlines()[0].split()[2]) == (0, "b.txt:1")


def test_settings_are_kept_for_the_next_time(docs: Path, tmp_path: Path, command_line: CommandLine) -> None:
    index = tmp_path / "index"
    command_line("sync", docs, index, "--set", "reading.include=['*.md']", "--set", "index.language=de")
    assert "1 file unchanged; 1 passage without" in command_line("sync", docs, index).out
    again = command_line("sync", docs, index, "--set", "reading.include=[]")
    assert "1 file added, 1 unchanged; 2 passages" in again.out


def test_mistakes_are_one_line_and_change_nothing(docs: Path, tmp_path: Path, command_line: CommandLine) -> None:
    index = tmp_path / "index"
    assert "no such file or folder" in command_line.refused("sync", tmp_path / "nowhere", index)
    assert "such as c.png (a picture); exclude or repair" in command_line.refused("sync", docs, index, "--strict")
    assert "no such model folder" in command_line.refused("sync", docs, index, "--model", "./nowhere")
    assert "unknown key" in command_line.refused("sync", docs, index, "--set", "index.kinds=exact")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs"]


def test_watching_follows_changes_until_it_is_interrupted(docs: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    command = [sys.executable, "-m", "llama2vec.cli", "sync", docs, index, "--watch"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        assert "2 files added" in run.stdout.readline()
        assert "a picture: c.png" in run.stdout.readline()
        (docs / "new.md").write_text("# Castle\n\nA castle stands on the hill.")
        assert "1 file added, 2 unchanged; 3 passages" in run.stdout.readline()
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        try:
            assert run.wait(30) == 0
        finally:
            run.kill()  # Leaving the block waits for its end
        assert run.stderr is not None
        assert run.stderr.read().endswith("Stopped watching.\n")


def test_vectors_are_kept_in_the_format_that_was_set_last(
    docs: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    index = tmp_path / "index"
    for given, kept in (("index.half=true", "float16"), ("index.int8=true", "int8"), ("index.language=de", "int8")):
        assert command_line("sync", docs, index, "--model", llama_folder, "--set", given, *CPU).code == 0
        assert VectorStore.open(index / "store").dtype == kept
    (docs / "b.txt").write_text("The harbor opens in winter.")
    assert "2 passages, 1 of them newly encoded; " in command_line("sync", docs, index, *CPU).out
    found = command_line("search", index, "harbor", "--mode", "dense", *CPU)
    assert (found.code, len(found.out.splitlines()) > 1) == (0, True)


def test_long_passages_that_the_model_cuts_are_told(
    docs: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    (docs / "b.txt").write_text("The market opens in winter. " * 600)
    never = ("--set", "passages.split=never")
    assert command_line("sync", docs, tmp_path / "index", "--model", llama_folder, *never, *CPU).code == 0
    assert f"{docs}: the model reads only the beginning of 1 of 2 passages (50 %), and the rest" in caplog.text
    caplog.clear()
    assert command_line("sync", docs, tmp_path / "index", *CPU).code == 0
    assert "only the beginning" not in caplog.text


def test_prompts_that_no_model_would_read_are_refused(
    docs: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    index, model = tmp_path / "index", encoder_for(llama_folder).save(tmp_path / "model")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a", "pos": ["b"], "neg": []}\n', encoding="utf-8")
    read = ("read", docs, "-o", tmp_path / "corpus.jsonl")
    for call in (("sync", docs, index), read, ("mine", pairs, "-o", tmp_path / "mined.jsonl")):
        assert "name it with --model" in command_line.refused(*call, "--prompts", "echo")
    for call in (("sync", docs, index), read):
        assert "carries its own contract" in command_line.refused(*call, "--model", model, "--prompts", "echo")
    assert not index.exists()

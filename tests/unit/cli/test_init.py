"""``llama2vec init``: the recipe of a training makes the same training."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import CommandLine


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)


def test_the_recipe_of_an_adaptation_is_that_adaptation(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    sets = ["optimizer.steps=1", "optimizer.batch_size=2", "model.device=cpu", "text.max_tokens=40"]
    command = ["adapt", "--model", llama_folder, "--corpus", corpus_file, "-o", tmp_path / "out"]
    command += [part for change in sets for part in ("--set", change)]
    found = command_line(*command, "--set", "text.held_out=0.1")
    assert found.code == 0, found.err
    file = tmp_path / "again.toml"
    made = command_line("init", "--from", tmp_path / "out", "-o", file)
    assert made.out.strip() == f"Wrote {file}; use it with `llama2vec adapt {file} --output NEW_FOLDER`"
    assert "batch_size = 2  # default: 16" in file.read_text(encoding="utf-8")
    assert "is already done" in command_line("adapt", file, "-o", tmp_path / "out").out
    assert command_line("init", "--from", tmp_path / "out").out == file.read_text(encoding="utf-8")
    assert "exists" in command_line.refused("init", "--from", tmp_path / "out", "-o", file)
    assert command_line("init", "--from", tmp_path / "out", "-o", file, "--overwrite").code == 0


def test_the_recipe_of_a_run_is_that_run(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    command = ["run", "--corpus", corpus_file, "--model", llama_folder, "-o", tmp_path / "out", "--until", "pairs"]
    found = command_line(*command, "--set", "model.device=cpu", "--set", "adapt.optimizer.steps=3")
    assert found.code == 0, found.err
    file = tmp_path / "again.toml"
    assert command_line("init", "--from", tmp_path / "out", "-o", file).code == 0
    again = command_line("run", file, "-o", tmp_path / "out", "--until", "pairs")
    assert again.code == 0, again.err
    assert "already done" in again.out


def test_a_folder_without_settings_is_refused(command_line: CommandLine, tmp_path: Path) -> None:
    line = command_line.refused("init", "--from", tmp_path, "-o", tmp_path / "x.toml")
    assert "give the folder of a training or run" in line
    assert not (tmp_path / "x.toml").exists()


def test_a_folder_of_seeds_names_one_and_a_list_that_is_left_out_is_said(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    words = tmp_path / "words.txt"
    words.write_text("river\n", encoding="utf-8")
    sets = ["optimizer.steps=1", "optimizer.batch_size=2", "model.device=cpu", "text.max_tokens=40"]
    command = ["adapt", "--model", llama_folder, "--corpus", corpus_file, "-o", tmp_path / "seeds", "--seeds", "3"]
    command += [part for change in [*sets, f"text.stop_words={words}"] for part in ("--set", change)]
    assert command_line(*command).code == 0
    line = command_line.refused("init", "--from", tmp_path / "seeds")
    assert f"holds a training for each seed; give one of them, such as {tmp_path / 'seeds' / 'seed-3'}" in line
    made = command_line("init", "--from", tmp_path / "seeds" / "seed-3", "-o", tmp_path / "again.toml")
    assert made.code == 0
    assert "again.toml: text.stop_words was a file with sha256:" in caplog.text


def test_a_list_of_stop_words_is_read_before_the_corpus(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    command = ["adapt", "--model", llama_folder, "--corpus", tmp_path / "none.jsonl", "-o", tmp_path / "out"]
    line = command_line.refused(*command, "--set", f"text.stop_words={tmp_path / 'none.txt'}")
    assert "text.stop_words: " in line
    assert not (tmp_path / "out").exists()

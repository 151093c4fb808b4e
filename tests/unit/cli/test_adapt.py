"""``llama2vec adapt``."""

from __future__ import annotations

import re
from pathlib import Path

from running import CommandLine

SETS = ["optimizer.steps=1", "optimizer.batch_size=2", "model.device=cpu", "model.lora.rank=2", "text.min_words=4"]


def test_a_recipe_by_name_is_overridden_by_options_and_ends_with_facts(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    command = ["adapt", "smollm2-cpu", "--model", llama_folder, "--corpus", corpus_file, "-o", tmp_path / "out"]
    command += [part for change in [*SETS, "text.max_words=12"] for part in ("--set", change)]
    found = command_line(*command)
    assert found.code == 0, found.err
    assert re.search(rf"Adapted {llama_folder} \[D=32\] in 1 steps, \d+ s, to {tmp_path / 'out'}", found.out)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = command_line(*command)
    assert (again.code, again.out.count("\n")) == (0, 1)
    assert f"{tmp_path / 'out'} is already done" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_without_a_corpus_it_says_where_to_name_one(command_line: CommandLine, tmp_path: Path) -> None:
    assert "--corpus" in command_line.refused("adapt", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()

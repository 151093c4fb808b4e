"""``llama2vec run`` before its first stage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from running import CommandLine


def test_neither_recipe_nor_corpus_is_one_line(command_line: CommandLine) -> None:
    assert command_line.refused("run") == (
        "llama2vec: give a recipe, or --corpus for the default run over a corpus without labels"
    )


def test_a_dry_run_shows_every_stage_with_time_and_memory_and_writes_nothing(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    done = command_line(
        "run", "--corpus", corpus_file, "--model", llama_folder, "-o", output, "--dry-run", "--flops", 1e9
    )
    assert done.code == 0
    for stage in ("pairs", "adapt", "finetune", "encode", "index"):
        assert re.search(rf"(?m)^{stage} +~ .* run +not done yet ", done.out)
    assert "not done yet" in done.out
    assert "MiB" in done.out or "GiB" in done.out
    assert "- expect them to be right within a factor of 2, if nothing else runs" in done.out
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "index", "--until", "pairs"], "--from index comes after --until pairs"),
        (
            ["--set", "adapt.optimizer.stepz=3"],
            "unknown key 'adapt.optimizer.stepz'; did you mean 'adapt.optimizer.steps'?",
        ),
        (["--set", "adapt"], "--set adapt: write it as section.key=value"),
        (["--corpus", ""], "give a recipe, or --corpus"),
        (["--model", "./nowhere"], "nowhere: no such model folder or file"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    output = tmp_path / "run"
    base = ["--corpus", corpus_file, "--model", llama_folder, "--output", output]
    assert message in command_line.refused("run", *base, *arguments)
    assert not output.exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    base = ["--corpus", corpus_file, "--model", llama_folder, "--dry-run", "--flops", 1e9]
    for seeds in ("x", "0,0", "0,1,-2"):
        said = command_line.refused("run", *base, "-o", tmp_path / "run", "--seeds", seeds)
        assert f"--seeds {seeds}: " in said
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.md").write_text("The river rises in the hills.\n", encoding="utf-8")
    base[1] = documents
    assert "lies inside the input" in command_line.refused("run", *base, "-o", documents / "run")


def test_a_dry_run_of_seeds_names_their_folders_and_the_time_of_all(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    done = command_line(
        "run", "--corpus", corpus_file, "--model", llama_folder, "-o", output, "--dry-run", "--flops", 1e9,
        "--seeds", "3,4,5",
    )  # fmt: skip
    assert done.code == 0
    assert "Plan for" in done.out
    assert "seed-3" in done.out
    last = done.out.splitlines()[-1]
    assert last.startswith(f"The same for {output / 'seed-4'}, {output / 'seed-5'}: about ")
    assert last.endswith("for all 3 seeds.")
    assert not output.exists()


def test_a_rate_without_a_dry_run_is_refused(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    base = ["--corpus", corpus_file, "--model", llama_folder, "-o", tmp_path / "run"]
    assert "--flops is for --dry-run alone" in command_line.refused("run", *base, "--flops", 5)
    assert not (tmp_path / "run").exists()

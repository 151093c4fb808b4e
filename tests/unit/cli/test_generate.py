"""`llama2vec generate`."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.data.examples.labeled import read_examples

LOOSE = [
    "generate.prompt={passage}", "generate.round_trip=0", "generate.min_words=1", "generate.max_words=999",
    "generate.passages=6", "generate.questions=4", "generate.question_max_tokens=60", "generate.temperature=2",
    "generate.top_p=1.0", "generate.passage_min_words=1",
]  # fmt: skip


def test_an_llm_writes_examples_and_the_same_call_has_nothing_to_do(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    call = ["generate", corpus_file, "-o", tmp_path / "pairs.jsonl", "--model", llama_folder, "--device", "cpu"]
    call += [part for setting in LOOSE for part in ("--set", setting)]
    done = command_line(*call)
    assert done.code == 0, done.err
    written = list(read_examples(str(tmp_path / "pairs.jsonl")))
    assert f"Wrote {len(written):,} examples" in done.out
    assert "24 questions for 6 of 24 passages" in done.out
    done = command_line(*call)
    assert (done.code, "already done" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "generate.questionz=1"], "did you mean 'generate.questions'?"),
        (["--model", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_a_mistake_is_one_line(
    command_line: CommandLine, corpus_file: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in command_line.refused("generate", corpus_file, "-o", tmp_path / "pairs.jsonl", *options)


def test_an_output_that_cannot_hold_examples_is_refused(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    line = command_line.refused("generate", corpus_file, "-o", tmp_path / "pairs.txt", "--model", llama_folder)
    assert "cannot hold training examples; give a path that ends in .jsonl" in line

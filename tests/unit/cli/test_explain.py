"""`llama2vec explain`, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import CommandLine

CPU = ["--dtype", "float32", "--device", "cpu"]


def test_explain_shows_both_sides_the_match_and_the_evidence(llama_folder: Path, command_line: CommandLine) -> None:
    options = ["--query", "river stone", "--passage", "The river is wide. The castle is old.", "--top", 5, "--evidence"]
    done = command_line("explain", llama_folder, *options, *CPU)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("dense cosine ")
    assert "query stands for" in lines[2]
    assert "passage stands for" in lines[2]
    assert any(line.startswith("the match") for line in lines)
    assert sum(line.lstrip()[:1] in "+-" and "The " in line for line in lines) == 2
    assert "█" in done.out


def test_explain_as_json_adds_up(llama_folder: Path, command_line: CommandLine) -> None:
    options = ["-q", "river stone", "-p", "The river is wide.", "--json"]
    found = json.loads(command_line("explain", llama_folder, *options, *CPU).out)
    assert found["word_score"] == pytest.approx(sum(word["contribution"] for word in found["shared"]))
    assert {"word", "query_weight", "passage_weight", "contribution"} == set(found["shared"][0])
    assert len(found["query_words"]) == 12 >= len(found["passage_words"]) > 0
    assert (found["query"], found["evidence"]) == ("river stone", [])


def test_wrong_explanations_are_one_line(llama_folder: Path, command_line: CommandLine) -> None:
    assert "--query is empty" in command_line.refused("explain", llama_folder, "-q", " ", "-p", "x", *CPU)
    named = ["-q", "x", "-p", "y", "--language", "english"]
    assert "--language: 'english' is not an ISO 639 code" in command_line.refused("explain", "./nowhere", *named)
    options = ["-q", "x", "-p", "y", "--set", "pooling=mean"]
    assert "pooling=slots" in command_line.refused("explain", llama_folder, *options, *CPU)


def test_texts_that_the_model_cuts_are_named(
    llama_folder: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    long = "The river is wide. " * 20
    sets = ["--set", "query_max_tokens=9", "--set", "passage_max_tokens=10"]
    assert command_line("explain", llama_folder, "-q", long, "-p", long, *sets, *CPU).code == 0
    assert [line for line in caplog.messages if "only the beginning" in line] == [
        "the model reads only the beginning of the query, and its rest after 9 tokens is not in its vector; "
        "raise the limit with --set query_max_tokens=N",
        "the model reads only the beginning of the passage, and its rest after 10 tokens is not in its vector; "
        "raise the limit with --set passage_max_tokens=N",
    ]
    caplog.clear()
    assert command_line("explain", llama_folder, "-q", "river", "-p", "The river.", *sets, *CPU).code == 0
    assert "only the beginning" not in caplog.text

"""``llama2vec finetune``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from running import CommandLine


def test_it_trains_on_the_named_files_and_ends_with_facts(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"river {row}", "pos": [f"stone {row}"], "neg": []} for row in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ["optimizer.steps=1", "optimizer.batch_size=4", "model.device=cpu", "encoder.passage_max_tokens=40"]
    command = ["finetune", "--model", llama_folder, "--data", file, "--data", file, "-o", tmp_path / "out"]
    command += [part for change in sets for part in ("--set", change)]
    found = command_line(*command)
    assert found.code == 0, found.err
    assert re.search(r"Fine-tuned .* \[D=32\] on 14 queries in 1 step, \d+ s, mrr@10 \d\.\d+, ndcg@10 ", found.out)
    assert "is already done" in command_line(*command).out
    assert "Fine-tuned" in command_line(*command, "--overwrite").out


def test_texts_that_training_cuts_are_counted_in_one_line(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"{row} {'river ' * 60}", "pos": [f"{row} {'stone ' * 90}"], "neg": []} for row in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ["optimizer.steps=1", "optimizer.batch_size=4", "model.device=cpu", "encoder.passage_max_tokens=40"]
    command = ["finetune", "--model", llama_folder, "--data", file]
    command += [part for change in [*sets, "encoder.query_max_tokens=20"] for part in ("--set", change)]
    for name, streaming in (("memory", "false"), ("disk", "true")):
        caplog.clear()
        found = command_line(*command, "-o", tmp_path / name, "--set", f"data.streaming={streaming}")
        assert found.code == 0, found.err
        assert [line for line in caplog.messages if "only the beginning" in line] == [
            "training reads only the beginning of 8 of 8 queries (limit 20 tokens) and 8 of 8 passages (limit 40 "
            "tokens); raise encoder.query_max_tokens and raise encoder.passage_max_tokens"
        ]


def test_without_examples_it_says_where_to_name_them(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path
) -> None:
    line = command_line.refused("finetune", "--model", llama_folder, "-o", tmp_path / "out")
    assert "data.sources is empty" in line
    assert not (tmp_path / "out").exists()


def test_a_tracker_follows_and_changes_neither_plan_nor_result(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"river {row}", "pos": [f"stone {row}"], "neg": []} for row in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ["optimizer.steps=1", "optimizer.batch_size=4", "model.device=cpu", "encoder.passage_max_tokens=40"]
    command = ["finetune", "--model", llama_folder, "--data", file, "-o", tmp_path / "out"]
    command += [part for change in sets for part in ("--set", change)]
    found = command_line(*command, "--set", "tracking.report_to=tensorboard")
    assert found.code == 0, found.err
    assert list((tmp_path / "out" / "tensorboard").iterdir())
    assert "is already done" in command_line(*command).out
    assert "Fine-tuned" in command_line(*command, "--overwrite").out
    assert not (tmp_path / "out" / "tensorboard").exists()


def test_a_tracker_that_is_missing_or_unknown_is_one_line(
    command_line: CommandLine, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.training.tracking.find_spec", lambda name: None)
    for verb, more in (("finetune", ["--data", tmp_path]), ("adapt", ["--corpus", tmp_path])):
        command = [verb, "--model", llama_folder, *more, "-o", tmp_path / "out", "--set"]
        line = command_line.refused(*command, "tracking.report_to=wandb")
        assert "tracking.report_to: wandb is not installed; run: pip install wandb" in line
        line = command_line.refused(*command, "tracking.report_to=wanb")
        assert "unknown tracker 'wanb'; choose from tensorboard, wandb, trackio, none" in line
    assert not (tmp_path / "out").exists()

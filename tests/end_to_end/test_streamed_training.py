"""A training that reads its rows from the disk is resumed at the row where a kill stopped it, in both stages."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llama2vec.training.state import read_log

pytestmark = pytest.mark.slow


def train(stage: str, folder: Path, data: Path, output: Path, die_after: int) -> None:
    import torch

    from llama2vec.adapt.settings import AdaptConfig
    from llama2vec.adapt.stage import adapt_model
    from llama2vec.config import load_config
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.training import loop

    torch.set_num_threads(1)
    loop.draw_losses = lambda *_: None
    save = loop._Recorder.on_save

    def save_and_die(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
        save(self, args, state, control, **others)
        if die_after and state.global_step >= die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    loop._Recorder.on_save = save_and_die  # type: ignore[method-assign]
    common = [
        f"model.name={folder}", "model.dtype=float32", "model.device=cpu", "model.lora.rank=4", "optimizer.steps=7",
        "optimizer.batch_size=4", "optimizer.save_every=2", "optimizer.log_every=1", "optimizer.validate_every=3",
    ]  # fmt: skip
    if stage == "adapt":
        text = ["text.min_words=5", "text.max_words=20", "text.max_tokens=24", "text.held_out=0.2"]
        adapt_model(
            load_config(AdaptConfig, None, [*common, *text, f"text.corpus={data}", "text.streaming=true"]), output
        )
    else:
        more = ["encoder.passage_max_tokens=24", "validation.share=0.1", f"data.sources={data}", "data.streaming=true"]
        finetune_model(load_config(FinetuneConfig, None, [*common, *more]), output)


def run(*arguments: Any) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llama2vec.finetune.train", "llama2vec.adapt.train", "peft", "ir_measures"])
    process = context.Process(target=train, args=arguments, daemon=True)
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("stage", ["adapt", "finetune"])
def test_killed_and_resumed_it_ends_with_the_bytes_of_an_uninterrupted_one(
    stage: str, llama_folder: Path, corpus_file: Path, sentences: list[str], tmp_path: Path
) -> None:
    data = corpus_file
    if stage == "finetune":
        data = tmp_path / "examples.jsonl"
        rows = [{"query": " ".join(text.split()[1:4]), "pos": [text], "neg": []} for text in sentences]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(stage, llama_folder, data, whole, 0) == 0
    assert run(stage, llama_folder, data, killed, 2) == -signal.SIGKILL
    assert run(stage, llama_folder, data, killed, 4) == -signal.SIGKILL
    assert run(stage, llama_folder, data, killed, 0) == 0
    logs = [[{**line, "seconds": 0} for line in read_log(folder / "log.jsonl")] for folder in (whole, killed)]
    assert logs[0] == logs[1]
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    for folder in (whole, killed):
        assert not list(folder.glob("*.sqlite*"))

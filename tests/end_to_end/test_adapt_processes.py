"""Two processes adapt like one on their joined batch, whichever texts have a U and whatever the architecture."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
from torchrun import as_process

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.records import Passage
from llama2vec.training.state import read_log

pytestmark = pytest.mark.slow

WORDS = ["stone", "copper", "silver", "winter", "village", "castle", "cotton", "lantern", "harbour"]
# Eight texts to learn from; a-1 alone is followed by another text of its document, which is no T itself.
PASSAGES = [
    Passage(name, f"The {word} bridge crosses the {'very ' * row}cold river near the market.")
    for row, (name, word) in enumerate(zip(["a-1", "a-2", *"bcdefgh"], WORDS, strict=True))
]
CUTS = {"two": "optimizer.batch_size=4", "two-accumulated": "optimizer.batch_size=2 optimizer.accumulation=2"}
# Their layers have weights that no gradient reaches.
KINDS = {
    "gemma3n_text": "model.lora.rank=2", "mamba": "model.lora.rank=2", "ernie4_5_moe": "model.lora.rank=0",
}  # fmt: skip


def config_for(folder: Path, *more: str) -> AdaptConfig:
    common = [
        f"model.name={folder}", "model.dtype=float32", "model.device=cpu", "text.max_words=20", "text.max_tokens=80",
        "text.held_out=0", "text.draw_lengths=false", "text.min_words=1", "optimizer.steps=2", "optimizer.log_every=1",
        "encoder.layers=1", "objective.language_model_weight=0.3",
    ]  # fmt: skip
    return load_config(AdaptConfig, None, [*common, *more])


def work(rank: int, port: int, trainings: dict[str, tuple[Path, list[str]]], scratch: Path) -> None:
    from llama2vec.adapt.stage import adapt_model

    as_process(rank, 2, port)
    for name, (folder, more) in trainings.items():
        adapt_model(config_for(folder, *more), scratch / name, passages=PASSAGES)


@pytest.fixture(scope="module")
def models(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"llama": llama_folder, **{kind: save_tiny(kind, folder / kind) for kind in KINDS}}


@pytest.fixture(scope="module")
def two(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train everything on two processes, one training after the other."""
    trainings = {name: (models["llama"], ["model.lora.rank=0", *cut.split()]) for name, cut in CUTS.items()}
    trainings |= {kind: (models[kind], [rank, CUTS["two"]]) for kind, rank in KINDS.items()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llama2vec.adapt.train", "peft"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tmp_path_factory.mktemp("two")
    processes = [context.Process(target=work, args=(rank, port, trainings, scratch), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return scratch


def losses(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in read_log(folder / "log.jsonl")
    ]


@pytest.mark.parametrize("training", [*CUTS, *KINDS])
def test_two_processes_have_the_losses_and_gradients_of_one_on_the_joined_batch(
    training: str, two: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama2vec.adapt.stage import adapt_model

    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)
    rank = KINDS.get(training, "model.lora.rank=0")
    config = config_for(models.get(training, models["llama"]), rank, "optimizer.batch_size=8")
    adapt_model(config, tmp_path / "one", passages=PASSAGES)
    expected, found = losses(tmp_path / "one"), losses(two / training)
    assert len(found) == len(expected) == 2
    for one, joined in zip(expected, found, strict=True):
        assert {"loss", "loss_self", "loss_next", "loss_lm", "gradient_norm"} <= one.keys()
        assert joined == pytest.approx(one, rel=1e-4)

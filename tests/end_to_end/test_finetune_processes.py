"""Two processes train like one on their joined batch."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchrun import as_process

from llama2vec.config import load_config
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.records import TrainingExample

pytestmark = pytest.mark.slow


def config_for(folder: Path, batch_size: int, *more: str) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        None,
        [
            f"model.name={folder}", "model.dtype=float32", "model.device=cpu", f"optimizer.batch_size={batch_size}",
            "encoder.query_max_tokens=16", "encoder.passage_max_tokens=24", "contrastive.micro_batch_tokens=60",
            "contrastive.graph_tokens=60", "optimizer.steps=4", "optimizer.validate_every=3", "optimizer.save_every=3",
            "validation.share=0.1", "contrastive.distillation_weight=0.3", "contrastive.dimensions=[16]", *more,
        ],
    )  # fmt: skip


def rows(sentences: list[str]) -> list[TrainingExample]:
    """Rows with 0 to 2 negatives, some with a teacher's scores, some with the positive of another row."""
    made = []
    for number, text in enumerate(sentences[:30]):
        negatives = tuple(sentences[40 + (number + shift) % 20] for shift in range(number % 3))
        scores = number % 2 == 0
        made.append(
            TrainingExample(
                " ".join(text.split()[1:4]), (sentences[number - number % 5],), negatives,
                positive_scores=(2.0,) if scores else (),
                negative_scores=tuple(0.5 * place for place in range(len(negatives))) if scores else (),
            )
        )  # fmt: skip
    return made


def work(rank: int, port: int, folder: Path, examples: list[TrainingExample], scratch: Path, queue: Any) -> None:
    """One of two processes: gradients of half a batch, then whole trainings."""
    import torch

    as_process(rank, 2, port)
    from llama2vec.errors import Llama2VecError
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.processes import connect

    connect(torch.device("cpu"))
    found = {"gradients": gradients(folder, examples, 4 * rank, 4 * rank + 4)}
    for name, more in TRAININGS.items():
        found[name] = finetune_model(config_for(folder, 4, *more), scratch / name, examples=examples).encode_queries(
            ["river"]
        )
    try:
        finetune_model(config_for(folder, 4), scratch / "other", examples=examples[rank:])
    except Llama2VecError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    queue.put((rank, found))


TRAININGS = {"lora": ["model.lora.rank=4"], "full": ["model.lora.rank=0", "optimizer.accumulation=2"]}
GUIDES = {
    "self": ["model.lora.rank=4", "contrastive.false_negatives=self"],
    "start": ["model.lora.rank=0", "contrastive.false_negatives=start"],
}
TRAININGS |= GUIDES


def gradients(folder: Path, examples: list[TrainingExample], start: int, stop: int) -> dict[str, np.ndarray]:
    from llama2vec.finetune.batches import DrawnExamples
    from llama2vec.finetune.settings import ExamplesSettings
    from llama2vec.finetune.train import ContrastiveObjective
    from llama2vec.model.backbone import load_backbone
    from llama2vec.model.encoder import Encoder

    config = config_for(folder, 4)
    encoder = Encoder.from_backbone(load_backbone(config.model), settings=config.encoder)
    objective = ContrastiveObjective(encoder, config.contrastive, ExamplesSettings())
    drawn = DrawnExamples(examples, None, config.contrastive, 0)
    model = encoder.backbone.model.train()
    loss, parts = objective.loss(model, objective.collate([drawn[row] for row in range(start, stop)]))
    loss.backward()
    found = {name: part.grad.numpy() for name, part in model.named_parameters() if part.grad is not None}
    return found | {"loss": np.array([loss.item(), *parts.values()])}


@pytest.fixture(scope="module")
def two(
    llama_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], Path]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llama2vec.finetune.train", "llama2vec.adapt.train", "peft", "ir_measures"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tmp_path_factory.mktemp("two")
    queue = context.Queue()
    processes = [
        context.Process(target=work, args=(rank, port, llama_folder, rows(sentences), scratch, queue), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(queue.get(timeout=120) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    return [found[0], found[1]], scratch


def test_gradients_of_two_processes_equal_those_of_one_on_the_joined_batch(
    two: tuple[list[dict[str, Any]], Path], llama_folder: Path, sentences: list[str]
) -> None:
    expected = gradients(llama_folder, rows(sentences), 0, 8)
    for found in two[0]:
        assert found["gradients"].keys() == expected.keys()
        for name, part in expected.items():
            np.testing.assert_allclose(found["gradients"][name], part, rtol=0, atol=1e-6 * max(1, abs(part).max()))


@pytest.mark.parametrize("kind", TRAININGS)
def test_two_processes_end_with_the_weights_of_one_that_takes_twice_the_batch(
    kind: str, two: tuple[list[dict[str, Any]], Path], llama_folder: Path, sentences: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.training.state import read_log

    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)
    encoder = finetune_model(config_for(llama_folder, 8, *TRAININGS[kind]), tmp_path / "one", examples=rows(sentences))
    found, scratch = two
    for process in found:
        np.testing.assert_allclose(process[kind], encoder.encode_queries(["river"]), rtol=0, atol=1e-5)
    logs = [read_log(folder / "log.jsonl") for folder in (tmp_path / "one", scratch / kind)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for one, joined in zip(*logs, strict=True):
        for name in one.keys() - {"seconds"}:
            assert joined[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name
        assert ("false_negatives" in one) == (kind in GUIDES and "loss" in one)


def test_processes_that_were_started_with_different_data_say_so_before_the_first_step(
    two: tuple[list[dict[str, Any]], Path],
) -> None:
    found, scratch = two
    for process in found:
        assert process["error"].startswith(
            "TrainingError: process 1 of 2 was started with other settings, examples or model"
        )
    assert not (scratch / "other").exists()

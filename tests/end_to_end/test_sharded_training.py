"""A model that is divided among processes (FSDP2) trains like a whole one, also when other numbers of them resume."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torchrun import as_process

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.records import TrainingExample
from llama2vec.training.state import read_log

pytestmark = pytest.mark.slow

# Both stages, every weight and LoRA; slot tokens, the LM loss, and batches that the gradient cache reads twice.
KINDS = {
    "adapt-full": ["model.lora.rank=0"],
    "adapt-lora": ["model.lora.rank=4", "prompts=released", "objective.language_model_weight=1"],
    "finetune-full": ["model.lora.rank=0", "contrastive.dimensions=[16]", "model.gradient_checkpointing=true"],
    "finetune-lora": ["model.lora.rank=4", "contrastive.false_negatives=start", "contrastive.distillation_weight=0.3"],
    "finetune-ebae": ["model.lora.rank=0", "pretext.weight=0.3"],
}
SHARDED = "optimizer.sharding=fsdp"


def train_one(kind: str, inputs: dict[str, Any], output: Path, die_after: int, more: list[str]) -> None:
    """Train in this process; after the checkpoint of a step, kill it as the kernel would."""
    from llama2vec.adapt.stage import adapt_model
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.processes import wait_for_all
    from llama2vec.training import loop

    save = loop._Recorder.on_save

    def save_and_die(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
        save(self, args, state, control, **others)
        if die_after and state.global_step >= die_after:
            wait_for_all()
            os.kill(os.getpid(), signal.SIGKILL)

    loop._Recorder.on_save = save_and_die  # type: ignore[method-assign]
    common = [
        f"model.name={inputs['model']}", "model.dtype=float32", "model.device=cpu", "optimizer.steps=4",
        "optimizer.save_every=1", "optimizer.validate_every=3", "optimizer.log_every=1",
        *KINDS[kind], *more,
    ]  # fmt: skip
    if kind.startswith("adapt"):
        of_text = ["text.min_words=5", "text.max_words=20", "text.max_tokens=24", "text.held_out=0.2"]
        config = load_config(AdaptConfig, None, [*common, *of_text, f"text.corpus={inputs['corpus']}"])
        encoder = adapt_model(config, output)
    else:
        of_data = ["contrastive.micro_batch_tokens=60", "contrastive.graph_tokens=60", "validation.share=0.1"]
        limits = ["encoder.query_max_tokens=16", "encoder.passage_max_tokens=24"]
        settings = load_config(FinetuneConfig, None, [*common, *of_data, *limits])
        encoder = finetune_model(settings, output, examples=inputs["examples"])
    # Each process has the whole model again.
    assert np.isfinite(encoder.encode_queries(["river"])).all()


def work(rank: int, processes: int, port: int, *training: Any) -> None:
    as_process(rank, processes, port)
    train_one(*training)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., list[int]]]:
    """Return a function that trains on so many processes and returns their exit codes; 0 = one without torchrun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["llama2vec.finetune.train", "llama2vec.adapt.train", "peft", "ir_measures", "torch.distributed.checkpoint"]
    )
    started: list[Any] = []

    def begin(processes: int, *training: Any) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1] if processes else 0
        count = max(processes, 1)
        group = [
            context.Process(target=work, args=(rank, count, port, *training), daemon=True) for rank in range(count)
        ]
        started.extend(group)
        for process in group:
            process.start()
        for process in group:
            process.join(timeout=240)
        return [process.exitcode for process in group]

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


@pytest.fixture(scope="module")
def inputs(llama_folder: Path, corpus_file: Path, sentences: list[str]) -> dict[str, Any]:
    examples = [
        TrainingExample(
            " ".join(text.split()[1:4]), (text,), tuple(sentences[40 + (row + shift) % 20] for shift in range(row % 3)),
            positive_scores=(2.0,), negative_scores=tuple(0.5 * place for place in range(row % 3)),
        )
        for row, text in enumerate(sentences[:40])
    ]  # fmt: skip
    return {"model": llama_folder, "corpus": corpus_file, "examples": examples}


def batches(kind: str, processes: int) -> list[str]:
    """Divide the steps of one process: batches of the first stage, the batch of the second."""
    if kind.startswith("adapt"):
        return ["optimizer.batch_size=2", f"optimizer.accumulation={4 // processes}"]
    return [f"optimizer.batch_size={8 // processes}"]


@pytest.fixture(scope="module", params=KINDS)
def whole(
    request: pytest.FixtureRequest, run: Callable[..., list[int]], inputs: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:  # fmt: skip
    """The same training by one process that holds the whole model."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert run(0, request.param, inputs, output, 0, batches(request.param, 1)) == [0]
    return request.param, output


def assert_same(found: Path, expected: Path) -> None:
    logs = [read_log(folder / "log.jsonl") for folder in (found, expected)]
    assert [line.keys() for line in logs[0]] == [line.keys() for line in logs[1]]
    for one, other in zip(*logs, strict=True):
        for name in one.keys() - {"seconds"}:
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-5), (one["step"], name)
    weights = [load_file(folder / "model.safetensors") for folder in (found, expected)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[1].items():
        np.testing.assert_allclose(weights[0][name], weight, rtol=0, atol=1e-5, err_msg=name)


def test_two_processes_that_share_a_model_train_like_one_that_holds_it(
    whole: tuple[str, Path], run: Callable[..., list[int]], inputs: dict[str, Any], tmp_path: Path
) -> None:
    kind, expected = whole
    assert run(2, kind, inputs, tmp_path / "out", 0, [*batches(kind, 2), SHARDED]) == [0, 0]
    assert_same(tmp_path / "out", expected)
    shares = tmp_path / "out" / "checkpoints" / "checkpoint-4" / "shares"
    assert len(list(shares.glob("__[01]_0.distcp"))) == 2


def test_killed_by_two_processes_and_resumed_by_four_and_by_one_it_ends_the_same(
    whole: tuple[str, Path], run: Callable[..., list[int]], inputs: dict[str, Any], tmp_path: Path
) -> None:
    kind, expected = whole
    output, settings = tmp_path / "out", [*batches(kind, 2), SHARDED]
    assert run(2, kind, inputs, output, 1, settings) == [-signal.SIGKILL] * 2
    assert run(4, kind, inputs, output, 2, settings) == [-signal.SIGKILL] * 4
    assert run(0, kind, inputs, output, 0, settings) == [0]
    assert_same(output, expected)

"""A fine-tuning that is killed at any moment ends, when it is run again, with the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama2vec.config import load_config
from llama2vec.errors import OutputExistsError
from llama2vec.finetune.settings import FinetuneConfig

pytestmark = pytest.mark.slow

LORA = ["model.lora.rank=4", "model.lora.dropout=0.2", "optimizer.learning_rate=3e-3"]
FULL = ["model.lora.rank=0", "optimizer.learning_rate=1e-3", "contrastive.positives=2"]
STEPS = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "query": " ".join(text.split()[1:4]),
            "pos": [text, f"{text} {number}"],
            "neg": [sentences[(number + shift) % 60] for shift in (7, 8)],
        }
        for number, text in enumerate(sentences[:26])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_for(llama_folder: Path, data: Path, *more: str) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        None,
        [
            f"model.name={llama_folder}", "model.dtype=float32", "model.device=cpu", f"data.sources={data}",
            "encoder.query_max_tokens=16", "encoder.passage_max_tokens=24", "contrastive.micro_batch_tokens=120",
            "contrastive.graph_tokens=120", f"optimizer.steps={STEPS}", "optimizer.batch_size=6",
            "optimizer.log_every=2", "optimizer.save_every=3", "optimizer.validate_every=2", "validation.share=0.15",
            *more,
        ],
    )  # fmt: skip


def finetune_and_die(config: FinetuneConfig, output: str, moment: str) -> None:
    """Run in a process of its own; kill it, as the kernel would, at a given moment."""
    import torch
    from transformers import Trainer

    from llama2vec import stage
    from llama2vec.finetune.gradient_cache import GradientCache
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.model.encoder import Encoder
    from llama2vec.training import loop

    torch.set_num_threads(1)
    loop.draw_losses = lambda *_: None

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    kind, _, number = moment.partition(":")
    if kind == "between the readings":
        back, calls = GradientCache.backpropagate, [0]

        def back_or_die(self: GradientCache, gradients: torch.Tensor) -> None:
            calls[0] += 1
            return die() if calls[0] == int(number) else back(self, gradients)

        GradientCache.backpropagate = back_or_die  # type: ignore[method-assign]
    elif kind == "inside checkpoint":
        save = Trainer._save_optimizer_and_scheduler

        def half_save(self: Any, folder: str) -> None:
            if self.state.global_step < int(number):
                return save(self, folder)
            (Path(folder) / "optimizer.pt").write_bytes(b"half")
            return die()

        Trainer._save_optimizer_and_scheduler = half_save
    elif kind == "before encoder":
        Encoder.save = die  # type: ignore[method-assign,assignment]
    elif kind == "before manifest":
        stage.build_manifest = die  # type: ignore[assignment]
    finetune_model(config, output)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    """Start fine-tunings in fresh processes, forked from a server that has torch loaded once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llama2vec.finetune.train", "llama2vec.adapt.train", "peft", "ir_measures"])
    started: list[Any] = []

    def begin(config: FinetuneConfig, output: Path, moment: str = "never") -> Any:
        process = context.Process(target=finetune_and_die, args=(config, str(output), moment), daemon=True)
        process.start()
        started.append(process)
        process.join(timeout=120)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on kills: weights, tokenizer, contract, adapter, losses, best step."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in log:
        line.pop("seconds")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [*folder.glob("*.safetensors"), *folder.glob("tokenizer*"), *(folder / "adapter").glob("*.safetensors")]
    names = [folder / "llama2vec.json", folder / "config.json", *files]
    return {
        "log": log,
        "facts": {key: value for key, value in manifest["results"].items() if key != "seconds"},
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in names},
    }


MOMENTS = ["between the readings:5", "inside checkpoint:5", "before manifest"]


@pytest.mark.parametrize(("settings", "moments"), [(LORA, MOMENTS), (FULL, ["before encoder"])])
def test_killed_again_and_again_it_ends_with_the_bytes_of_an_uninterrupted_run(
    settings: list[str], moments: list[str], start: Callable[..., Any], llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    config = config_for(llama_folder, data, *settings)
    assert start(config, tmp_path / "whole").exitcode == 0
    expected = outcome(tmp_path / "whole")
    assert [line["step"] for line in expected["log"] if "validation_mrr@10" in line] == [2, 4, 6, 8, 10, 11]
    assert expected["facts"]["best_step"] in (2, 4, 6, 8, 10, 11)
    output = tmp_path / "out"
    for moment in moments:
        assert start(config, output, moment).exitcode == -signal.SIGKILL, moment
        assert not (output / "manifest.json").exists()
    assert start(config, output).exitcode == 0
    found = outcome(output)
    assert found["log"] == expected["log"]
    assert found["facts"] == expected["facts"]
    assert found["files"].keys() == expected["files"].keys()
    for name, content in expected["files"].items():
        assert found["files"][name] == content, name
    assert not list(output.glob(".*"))


def test_a_finished_one_is_left_alone_and_another_is_refused_by_the_setting_that_differs(
    start: Callable[..., Any], llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    from llama2vec.finetune.stage import finetune_model

    config = config_for(llama_folder, data, *FULL, "optimizer.steps=1")
    output = tmp_path / "out"
    assert start(config, output).exitcode == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert finetune_model(config, output).encode_queries(["river"]).shape == (1, 32)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    other = config_for(llama_folder, data, *FULL, "optimizer.steps=1", "contrastive.temperature=0.5")
    with pytest.raises(
        OutputExistsError, match=r"holds a fine-tuning.*contrastive\.temperature: 0\.02 there, 0\.5 now"
    ):
        finetune_model(other, output)
    assert start(config, output / "deep" / "er").exitcode == 0
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="does not hold a fine-tuning"):
        finetune_model(config, foreign, overwrite=True)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]

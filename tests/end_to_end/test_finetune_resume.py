"""A fine-tuning that is killed at any moment ends, when it is run again, with the bytes of an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_training import assert_ends_alike, die, die_at, exit_code, forked, outcome

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

    from llama2vec.finetune.gradient_cache import GradientCache
    from llama2vec.finetune.stage import finetune_model
    from llama2vec.training import loop

    torch.set_num_threads(1)
    loop.draw_losses = lambda *_: None
    die_at(moment)
    kind, _, number = moment.partition(":")
    if kind == "between the readings":
        back, calls = GradientCache.backpropagate, [0]

        def back_or_die(self: GradientCache, gradients: torch.Tensor) -> None:
            calls[0] += 1
            return die() if calls[0] == int(number) else back(self, gradients)

        GradientCache.backpropagate = back_or_die  # type: ignore[method-assign]
    finetune_model(config, output)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    preload = ["llama2vec.finetune.train", "llama2vec.adapt.train", "peft", "ir_measures"]
    with forked(finetune_and_die, preload) as begin:
        yield begin


MOMENTS = ["between the readings:5", "inside checkpoint:5", "before manifest"]


@pytest.mark.parametrize(("settings", "moments"), [(LORA, MOMENTS), (FULL, ["before encoder"])])
def test_killed_again_and_again_it_ends_with_the_bytes_of_an_uninterrupted_run(
    settings: list[str], moments: list[str], start: Callable[..., Any], llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    config = config_for(llama_folder, data, *settings)
    assert exit_code(start(config, tmp_path / "whole")) == 0
    expected = outcome(tmp_path / "whole")
    assert [line["step"] for line in expected["log"] if "validation_mrr@10" in line] == [2, 4, 6, 8, 10, 11]
    assert expected["facts"]["best_step"] in (2, 4, 6, 8, 10, 11)
    assert_ends_alike(start, config, moments, tmp_path / "out", expected)


def test_a_finished_one_is_left_alone_and_another_is_refused_by_the_setting_that_differs(
    start: Callable[..., Any], llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    from llama2vec.finetune.stage import finetune_model

    config = config_for(llama_folder, data, *FULL, "optimizer.steps=1")
    output = tmp_path / "out"
    assert exit_code(start(config, output)) == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert finetune_model(config, output).encode_queries(["river"]).shape == (1, 32)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    other = config_for(llama_folder, data, *FULL, "optimizer.steps=1", "contrastive.temperature=0.5")
    with pytest.raises(
        OutputExistsError, match=r"holds a fine-tuning.*contrastive\.temperature: 0\.02 there, 0\.5 now"
    ):
        finetune_model(other, output)
    assert exit_code(start(config, output / "deep" / "er")) == 0
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="does not hold a fine-tuning"):
        finetune_model(config, foreign, overwrite=True)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]

"""Estimates rest on the config, the texts and the machine's rate; no weights are loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from encoders import encoder_for

from llama2vec.config import load_config
from llama2vec.pipeline.estimates import START_SECONDS, StageEstimate, estimate_run
from llama2vec.pipeline.plan import plan_run
from llama2vec.pipeline.rates import model_shape
from llama2vec.pipeline.settings import RunConfig


@pytest.fixture
def estimated(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> Any:
    def estimate(*overrides: str, flops: float = 1e9) -> dict[str, StageEstimate]:
        base = [
            f"model.name={llama_folder}", "model.device=cpu", "model.dtype=float32", f"corpus={corpus_file}",
            "adapt=true", "pairs.from_corpus=true", "finetune.optimizer.batch_size=8", "encode=true", "index=true",
        ]  # fmt: skip
        plan = plan_run(load_config(RunConfig, None, [*base, *overrides]), tmp_path / "run")
        stages = estimate_run(plan, plan.stages, flops).stages
        # What is left is proportional to the work.
        return {
            name: found._replace(seconds=found.seconds - START_SECONDS * (name in ("adapt", "finetune", "encode")))
            for name, found in stages.items()
        }

    return estimate


def test_twice_the_steps_take_twice_the_time_and_twice_the_rate_half(estimated: Any) -> None:
    once, twice = estimated("adapt.optimizer.steps=100"), estimated("adapt.optimizer.steps=200")
    assert twice["adapt"].seconds == pytest.approx(2 * once["adapt"].seconds)
    assert twice["finetune"] == once["finetune"]
    faster = estimated("adapt.optimizer.steps=100", flops=2e9)
    assert faster["adapt"].seconds == pytest.approx(once["adapt"].seconds / 2)
    assert faster["encode"].seconds == pytest.approx(once["encode"].seconds / 2)


def test_full_training_needs_more_memory_and_time_than_adapters(estimated: Any) -> None:
    adapters, full = estimated(), estimated("model.lora.rank=0")
    assert full["adapt"].seconds > adapters["adapt"].seconds
    assert full["finetune"].seconds > adapters["finetune"].seconds


def test_full_training_in_float16_takes_the_memory_of_float32(estimated: Any) -> None:
    full, half = (estimated("model.lora.rank=0", f"model.dtype={name}") for name in ("float32", "float16"))
    assert half["adapt"].memory_bytes == full["adapt"].memory_bytes


def test_negatives_count_where_mining_will_find_them(estimated: Any) -> None:
    alone = "finetune.validation.share=0"
    without, with_mining = (
        estimated("finetune.contrastive.negatives=7", alone, *more)["finetune"] for more in ([], ["mine=true"])
    )
    assert without == estimated("finetune.contrastive.negatives=0", alone)["finetune"]
    assert with_mining.seconds > 3 * without.seconds


def test_with_the_gradient_cache_memory_stays_and_time_grows_with_the_batch(estimated: Any) -> None:
    guided = estimated("finetune.contrastive.false_negatives=start", "finetune.optimizer.steps=10")["finetune"]
    assert guided.seconds > 1.2 * estimated("finetune.optimizer.steps=10")["finetune"].seconds
    cached = ["finetune.contrastive.graph_tokens=256", "finetune.optimizer.steps=10", "finetune.validation.share=0"]
    small, large = (estimated(*cached, f"finetune.optimizer.batch_size={size}")["finetune"] for size in (8, 64))
    assert large.memory_bytes == pytest.approx(small.memory_bytes)
    assert large.seconds > 7 * small.seconds


def test_validation_is_counted_as_often_as_it_happens(estimated: Any) -> None:
    steps = ["adapt.optimizer.steps=10", "finetune.optimizer.steps=10"]

    def seconds(stage: str, every: int) -> float:
        return float(estimated(*steps, f"{stage}.optimizer.validate_every={every}")[stage].seconds)

    for stage, switch in (("adapt", "text.held_out"), ("finetune", "validation.share")):
        never = estimated(*steps, f"{stage}.{switch}=0")[stage].seconds
        assert never < seconds(stage, 0) == seconds(stage, 10) == seconds(stage, 50)
        # After steps 3, 6, 9 and 10
        assert seconds(stage, 3) - never == pytest.approx(4 * (seconds(stage, 0) - never), rel=0.05)


def test_padding_is_counted(estimated: Any) -> None:
    steps = ["adapt.optimizer.steps=10", "adapt.text.held_out=0"]
    even, uneven = (
        estimated(*steps, f"adapt.text.min_words={least}", "adapt.text.max_words=24", "adapt.text.max_tokens=999")
        for least in (24, 1)
    )
    # On average the uneven texts are half as long, and they are filled up to the longest of their micro-batch.
    assert 0.6 * even["adapt"].seconds < uneven["adapt"].seconds < even["adapt"].seconds


def test_what_an_estimate_rests_on_is_said(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    overrides = [f"model.name={llama_folder}", "model.device=cpu", f"corpus={corpus_file}", "encode=true"]
    plan = plan_run(load_config(RunConfig, None, overrides), tmp_path)
    said = "\n".join(estimate_run(plan, plan.stages, None).assumptions)
    for expected in ("no weights loaded", "measured here", "24 passages", "not counted", "factor of 1.5"):
        assert expected in said
    assert "as --flops says" in "\n".join(estimate_run(plan, plan.stages, 1e12).assumptions)
    assert list(tmp_path.iterdir()) == []


def test_too_few_texts_for_a_batch_are_noted(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    overrides = [f"model.name={llama_folder}", "model.device=cpu", f"corpus={corpus_file}", "adapt=true"]

    def said(batch: int) -> str:
        config = load_config(RunConfig, None, [*overrides, f"adapt.optimizer.batch_size={batch}"])
        plan = plan_run(config, tmp_path)
        return "\n".join(estimate_run(plan, plan.stages, 1e12).assumptions)

    assert re.search(r"adapt: about \d\d training examples do not fill a batch of 500,", said(500))
    assert "do not fill" not in said(8)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_from_the_config_alone(
    llama_folder: Path, tied_llama_folder: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tied_llama_folder if tied else llama_folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loads weights"))
    shape = model_shape(str(folder))
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    tables = 120 * 32 * (1 if tied else 2)
    assert (shape.body, shape.layers, shape.width) == (shape.parameters - tables, 2, 32)
    # q and o: 32 to 32; k and v: 32 to 16; three of the MLP: 32 to 48, or back.
    assert shape.linear_width == 2 * (2 * 64 + 2 * 48 + 3 * 80)
    half = model_shape(str(folder), layers=1)
    assert (half.layers, 2 * half.linear_width, half.vocabulary) == (1, shape.linear_width, shape.vocabulary)
    assert 2 * half.body == shape.body + 32  # The norm after the last layer stays.


def test_mining_without_a_corpus_encodes_the_passages_of_the_examples(llama_folder: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    encoder_for(llama_folder).save(encoder)
    rows = tmp_path / "rows.jsonl"

    def mined(negatives: int) -> tuple[float, list[str]]:
        row = {"query": "The river", "pos": ["The river rises."], "neg": [f"A {at}" for at in range(negatives)]}
        rows.write_text(f"{json.dumps(row)}\n" * 50, encoding="utf-8")
        overrides = [f"model.name={encoder}", "model.device=cpu", f'pairs.sources=["{rows}"]', "mine=true"]
        plan = plan_run(load_config(RunConfig, None, overrides), tmp_path / "run")
        found = estimate_run(plan, plan.stages, 1e9)
        return found.stages["mine"].seconds, found.assumptions

    few, said = mined(0)
    many, _ = mined(9)
    assert "mine: searches the 50 passages of the examples, where no corpus is named" in said
    assert many > 3 * few > 0


def test_the_model_that_writes_questions_and_the_teacher_take_memory_of_their_own(
    llama_folder: Path, save_model: Any, corpus_file: Path, tmp_path: Path
) -> None:
    large = save_model(tmp_path / "large", num_hidden_layers=9)
    teacher = tmp_path / "teacher"
    encoder_for(llama_folder).save(teacher)
    (teacher / "more.safetensors").write_bytes(b"0" * 2**25)
    base = [f"model.name={llama_folder}", "model.device=cpu", "model.dtype=float32", f"corpus={corpus_file}"]

    def memory(stage: str, *overrides: str) -> tuple[float, str]:
        plan = plan_run(load_config(RunConfig, None, [*base, *overrides]), tmp_path / "run")
        found = estimate_run(plan, plan.stages, 1e9)
        return found.stages[stage].memory_bytes, "\n".join(found.assumptions)

    own, writer = memory("pairs", "pairs.generated=true"), memory("pairs", f"pairs.generated.model={large}")
    shapes = [model_shape(str(folder)) for folder in (llama_folder, large)]
    assert writer[0] - own[0] > 4 * (shapes[1].parameters - shapes[0].parameters)
    assert f"pairs: {large} writes, with" in writer[1]
    mining = ["pairs.from_corpus=true", "mine=true"]
    without, judged = memory("mine", *mining), memory("mine", *mining, f"mine.teacher={teacher}")
    assert judged[0] - without[0] > 2**25
    assert f"mine: the teacher {teacher} takes 0.03 GiB" in judged[1]

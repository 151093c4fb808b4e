"""Fine-tuning from start to end on tiny models: it learns, keeps the best weights, and refuses what cannot work."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama2vec.config import EncoderSettings, PromptSettings, load_config
from llama2vec.errors import (
    ConfigError,
    ContractError,
    DataError,
    EmptyCorpusError,
    Llama2VecError,
    OutputExistsError,
    TrainingError,
)
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.finetune.train import ContrastiveObjective, _read, _with_steps
from llama2vec.finetune.validation import examples_task
from llama2vec.model.backbone import load_backbone
from llama2vec.model.encoder import Encoder
from llama2vec.records import TrainingExample
from llama2vec.training.state import read_log


def config(model: Path, *more: str) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        None,
        [
            f"model.name={model}", "model.dtype=float32", "model.device=cpu", "encoder.query_max_tokens=16",
            "encoder.passage_max_tokens=24", "optimizer.steps=3", "optimizer.batch_size=4", "optimizer.log_every=1",
            "validation.share=0.2", "validation.extra_passages=6", *more,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapted(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a contract of its own."""
    backbone = load_backbone(config(llama_folder).model)
    prompts = PromptSettings(recipe="mine", self_prompt=" That is: ", next_prompt=" Then: ")
    settings = config(llama_folder, "encoder.query_prompt=self", "encoder.passage_max_tokens=30").encoder
    return Encoder.from_backbone(backbone, prompts, settings).save(tmp_path_factory.mktemp("adapted") / "model")


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes longer than these trainings; one test looks at it.
    if "planted" not in request.node.name:
        monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)


# ------------------------------------------------------------------------------------------------------------- learning


def test_it_learns_a_planted_task(llama_folder: Path, sentences: list[str], tmp_path: Path) -> None:
    words = sorted({word for sentence in sentences for word in sentence[:-1].split()} - {"The", "of", "the"})
    draw = random.Random(0)
    rows = []
    for _ in range(160):
        first, second, third, other = draw.sample(words, 4)
        rows.append(TrainingExample(f"{first} {second}", (f"{second} {first} {third}",), (f"{first} {other} {third}",)))
    made = config(
        llama_folder, "optimizer.steps=40", "optimizer.batch_size=16", "optimizer.log_every=5", "model.lora.rank=0",
        "optimizer.learning_rate=3e-3", "optimizer.validate_every=20", "contrastive.temperature=0.05",
        "contrastive.dimensions=[16]",
    )  # fmt: skip
    encoder = finetune_model(made, tmp_path / "out", examples=rows)
    log = read_log(tmp_path / "out" / "log.jsonl")
    losses = [line["loss"] for line in log if "loss" in line]
    ranks = [line["validation_mrr@10"] for line in log if "validation_mrr@10" in line]
    assert losses[-1] < losses[0] / 2
    assert max(ranks) > 0.5
    task = examples_task(rows[:32], rows, made.validation, 0)
    raw = Encoder.from_backbone(load_backbone(made.model), settings=encoder.contract.encoder)
    assert task.score(encoder)["mrr@10"] > task.score(raw)["mrr@10"] + 0.2
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_encoder_asks_next_and_stores_self_and_carries_its_facts(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    finetune_model(config(llama_folder), tmp_path / "out", examples=examples)
    loaded = Encoder.load(tmp_path / "out")
    assert (loaded.contract.encoder.query_prompt, loaded.contract.encoder.passage_prompt) == ("next", "self")
    assert loaded.contract.encoder.query_max_tokens == 16
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stage"] == "finetune"
    assert manifest["results"]["training_queries"] == 19
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "### Fine-tuning (contrastive)" in card
    assert f"| steps | {manifest['results']['steps']} |" in card
    assert {"loss", "validation_mrr@10", "validation_ndcg@10"} <= manifest["results"]["losses"].keys()
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "out" / "finetune.json").is_file()


def test_mean_pooling_several_positives_and_distillation_train_together(llama_folder: Path, tmp_path: Path) -> None:
    rows = [
        TrainingExample(
            f"river {row}", (f"stone {row}", f"bridge {row}"), (f"winter {row}",),
            positive_scores=(2.0, 1.5), negative_scores=(0.1,),
        )
        for row in range(12)
    ]  # fmt: skip
    more = ["encoder.pooling=mean", "contrastive.positives=2", "contrastive.distillation_weight=0.5"]
    encoder = finetune_model(config(llama_folder, *more), tmp_path / "out", examples=rows)
    assert encoder.contract.encoder.pooling == "mean"
    line = next(line for line in read_log(tmp_path / "out" / "log.jsonl") if "loss" in line)
    expected = line["loss_contrastive"] + 0.5 * line["loss_distillation"]
    assert line["loss"] == pytest.approx(expected, rel=1e-4)


def test_new_slot_tokens_learn_under_lora(llama_folder: Path, examples: list[TrainingExample], tmp_path: Path) -> None:
    made = config(llama_folder, "prompts=released", "prompts.slots=2", "optimizer.learning_rate=1e-2")
    encoder = finetune_model(made, tmp_path / "out", examples=examples)
    raw = Encoder.from_backbone(load_backbone(made.model), made.prompts)
    slot = encoder.backbone.tokenizer.convert_tokens_to_ids("<s1>")
    rows = [one.backbone.model.get_input_embeddings().weight[slot] for one in (encoder, raw)]
    assert not rows[0].equal(rows[1])


@pytest.mark.parametrize("rank", [0, 4])
def test_recomputed_activations_change_memory_and_not_weights(
    rank: int, llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    more = [f"model.lora.rank={rank}", "optimizer.steps=2", "contrastive.micro_batch_tokens=60"]
    vectors = [
        finetune_model(
            config(llama_folder, *more, f"model.gradient_checkpointing={switch}"), tmp_path / switch, examples=examples
        ).encode_queries(["river stone"])
        for switch in ("true", "false")
    ]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)


@pytest.mark.parametrize(("rank", "saved"), [(0, "float32"), (4, "bfloat16")])
def test_bfloat16_multiplies_and_full_fine_tuning_keeps_float32_weights(
    rank: int, saved: str, llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    made = config(llama_folder, f"model.lora.rank={rank}", "model.dtype=bfloat16", "optimizer.steps=2")
    encoder = finetune_model(made, tmp_path / "out", examples=examples)
    assert encoder.contract.dtype == saved
    assert all("nan" not in str(line["loss"]) for line in read_log(tmp_path / "out" / "log.jsonl") if "loss" in line)


# ------------------------------------------------------------------------------------------------------ best checkpoint


def scored(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    from llama2vec.finetune.validation import ValidationTask

    found = iter(values)

    def score(self: ValidationTask, encoder: Any) -> dict[str, float]:
        value = next(found)
        return {"mrr@10": value, "ndcg@10": value}

    monkeypatch.setattr(ValidationTask, "score", score)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_weights_of_the_best_validation_are_kept(
    rank: int, llama_folder: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["optimizer.validate_every=1", "optimizer.save_every=2", "optimizer.schedule=constant"]
    more = [f"model.lora.rank={rank}", "optimizer.keep_checkpoints=1", "optimizer.learning_rate=1e-2", *steps]
    scored([0.1, 0.5, 0.3, 0.2, 0.4], monkeypatch)
    best = finetune_model(config(llama_folder, *more, "optimizer.steps=5"), tmp_path / "best", examples=examples)
    results = json.loads((tmp_path / "best" / "manifest.json").read_text(encoding="utf-8"))["results"]
    assert results["best_step"] == 2
    assert results["losses"]["validation_ndcg@10"] == 0.5
    scored([0.1, 0.5], monkeypatch)
    # The schedule is constant and both warm up in the first step: the first two steps of both runs are the same.
    scored([0.1, 0.5], monkeypatch)
    short = finetune_model(config(llama_folder, *more, "optimizer.steps=2"), tmp_path / "short", examples=examples)
    texts = ["river stone", "winter"]
    assert (best.encode_queries(texts) == short.encode_queries(texts)).all()


@pytest.mark.parametrize("rank", [0, 4])
def test_the_saved_weights_are_the_mean_of_the_last_checkpoints(
    rank: int, llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    steps = ["optimizer.steps=4", "optimizer.save_every=2", "optimizer.average_last=2", "optimizer.learning_rate=1e-2"]
    chosen = config(llama_folder, *steps, f"model.lora.rank={rank}", "validation.keep_best=false")
    finetune_model(chosen, tmp_path / "out", examples=examples)
    name = "model.layers.0.mlp.down_proj"
    saved = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]

    def mean(weight: str, file: str) -> torch.Tensor:
        folders = [tmp_path / "out" / "checkpoints" / f"checkpoint-{step}" for step in (2, 4)]
        return torch.stack([load_file(folder / file)[weight] for folder in folders]).mean(dim=0)

    if rank:
        low, high = (
            mean(f"base_model.model.{name}.{part}.weight", "adapter_model.safetensors") for part in ("lora_A", "lora_B")
        )
        start = load_file(llama_folder / "model.safetensors")[f"{name}.weight"]
        expected = start + chosen.model.lora.alpha / rank * high @ low
        assert not torch.allclose(saved, start, atol=1e-4)
    else:
        expected = mean(f"{name}.weight", "model.safetensors")
    torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attribute", [True, False])
def test_the_validation_pads_as_the_encoder_does(
    attribute: bool, make_objective: Callable[..., Any], examples: list[TrainingExample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model, objective = make_objective()
    objective.encoder.backbone.padding_changes_vectors = attribute
    asked: list[bool] = []

    def score(task: Any, encoder: Encoder) -> dict[str, float]:
        asked.append(encoder.backbone.padding_changes_vectors)
        assert encoder.backbone.model is model
        return {}

    monkeypatch.setattr("llama2vec.finetune.validation.ValidationTask.score", score)
    objective.validate(model, [examples_task(examples[:2], examples, config(Path()).validation, 0)], 4)
    assert asked == [attribute]


@pytest.mark.parametrize(("examples", "epochs", "steps"), [(40, 1, 3), (40, 2, 6), (47, 0.5, 2), (48, 1, 3), (3, 1, 1)])
def test_an_epoch_takes_a_last_step_of_what_is_left(
    examples: int, epochs: float, steps: int, llama_folder: Path
) -> None:
    settings = ["optimizer.steps=0", f"optimizer.epochs={epochs}", "optimizer.accumulation=4"]
    optimizer = config(llama_folder, *settings).optimizer
    assert _with_steps(optimizer, examples).steps == steps


def test_every_example_is_seen_once_in_each_epoch(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Counter[str]()
    collate = ContrastiveObjective.collate

    def counting(self: ContrastiveObjective, drawn: Any) -> Any:
        seen.update(example.query for example in drawn)
        return collate(self, drawn)

    monkeypatch.setattr(ContrastiveObjective, "collate", counting)
    settings = ["optimizer.steps=0", "optimizer.epochs=2", "optimizer.accumulation=4", "validation.share=0"]
    finetune_model(config(llama_folder, *settings), tmp_path / "out", examples=examples)
    assert seen == {example.query: 2 for example in examples}  # 24: six batches, four and two to a step


# ------------------------------------------------------------------------------------------------------------ contracts


def test_a_checkpoints_prompts_lengths_and_pooling_are_taken_over(
    adapted: Path, examples: list[TrainingExample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = load_config(
        FinetuneConfig,
        None,
        [f"model.name={adapted}", "model.device=cpu", "optimizer.steps=1", "optimizer.batch_size=4"],
    )
    with caplog.at_level(logging.INFO, "llama2vec"):
        encoder = finetune_model(made, tmp_path / "out", examples=examples)
    assert encoder.contract.prompts.self_prompt == " That is: "
    assert encoder.contract.encoder.passage_max_tokens == 30
    assert encoder.contract.encoder.query_prompt == "next"
    assert (
        f"the query prompt changes from self (in {adapted}) to next; encoder.query_prompt=self keeps it" in caplog.text
    )


def test_an_encoder_may_be_trained_with_fewer_layers_and_not_with_more(
    adapted: Path, examples: list[TrainingExample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = config(adapted, "model.layers=1", "encoder.passage_max_tokens=30")
    with caplog.at_level(logging.INFO, "llama2vec"):
        encoder = finetune_model(made, tmp_path / "out", examples=examples)
    assert f"{adapted}: training its lowest 1 of 2 layers" in caplog.text
    again = finetune_model(made, tmp_path / "out", examples=examples)  # It is there.
    assert encoder.backbone.model.config.num_hidden_layers == again.backbone.model.config.num_hidden_layers == 1
    assert encoder.contract.prompts.self_prompt == " That is: "
    np.testing.assert_allclose(
        again.encode_passages(["a llama"]), encoder.encode_passages(["a llama"]), rtol=0, atol=1e-6
    )
    more = config(adapted, "model.layers=3", "encoder.passage_max_tokens=30")
    with pytest.raises(ConfigError, match=r"model\.layers is 3 and the model has 2 layers; lower it"):
        finetune_model(more, tmp_path / "more", examples=examples)
    assert not (tmp_path / "more").exists()


def test_a_checkpoint_whose_weights_were_changed_is_refused(
    adapted: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(adapted, tmp_path / "copy")
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    made = load_config(FinetuneConfig, None, [f"model.name={copy}", "model.device=cpu", "optimizer.batch_size=4"])
    with pytest.raises(ContractError, match="weights are not those"):
        finetune_model(made, tmp_path / "out", examples=examples)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_model_that_was_replaced_under_its_name_is_noticed(
    finished: bool, save_model: Callable[..., Path], examples: list[TrainingExample], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = config(save_model(tmp_path / "llm"), "optimizer.save_every=1")
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr("llama2vec.finetune.train.save_trained", lambda *_, **__: sys.exit())
        with contextlib.suppress(SystemExit):
            finetune_model(made, tmp_path / "out", examples=examples)
    assert (tmp_path / "out" / "manifest.json").is_file() == finished
    save_model(tmp_path / "llm", seed=1)
    with pytest.raises(OutputExistsError, match="model: the content differs"):
        finetune_model(made, tmp_path / "out", examples=examples)
    save_model(tmp_path / "llm")
    finetune_model(made, tmp_path / "out", examples=examples)


# ------------------------------------------------------------------------------------------------------------ bad input

ROW = TrainingExample("q", ("p",))


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        ([], [], EmptyCorpusError, "no labeled examples"),
        ([ROW] * 9, ["optimizer.batch_size=1"], ConfigError, "nothing to contrast with"),
        ([ROW] * 3, ["validation.share=0"], TrainingError, "one batch of 4 is more than the 3 training examples"),
        ([ROW] * 9, ["contrastive.dimensions=[64]"], ConfigError, r"64 is wider than the model's vectors \[D=32\]"),
        ([ROW] * 9, ["contrastive.missing_negatives=error"], TrainingError, "fewer than 1 hard negative for"),
        ([ROW] * 9, ["data.passage_max_tokens=25"], ConfigError, "passage_max_tokens is 25, but the encoder reads 24"),
        ([TrainingExample("q", ())] * 9, [], Llama2VecError, "has no positive"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_and_leaves_nothing_behind(
    rows: list[TrainingExample], settings: list[str], error: type[Llama2VecError], message: str,
    llama_folder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message) as caught:
        finetune_model(config(llama_folder, *settings), tmp_path / "out", examples=rows)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_checkpoint(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama2vec.finetune import train as module

    calls = [0]
    right = module.contrastive_loss

    def wrong(*arguments: Any) -> Any:
        calls[0] += 1
        loss, parts = right(*arguments)
        return (loss * float("nan"), parts) if calls[0] == 3 else (loss, parts)

    monkeypatch.setattr(module, "contrastive_loss", wrong)
    with pytest.raises(TrainingError, match=r"step 3: the loss is nan.*last good checkpoint"):
        finetune_model(config(llama_folder, "optimizer.save_every=2"), tmp_path / "out", examples=examples)
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-2" / "complete.json").is_file()
    monkeypatch.setattr(module, "contrastive_loss", right)
    finetune_model(config(llama_folder, "optimizer.save_every=2"), tmp_path / "out", examples=examples)


def test_streaming_draws_from_what_was_mined_on_the_disk_and_holds_out_the_same_queries(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    rows = [json.dumps({"query": f"query {row}", "pos": [f"answer {row}"]}) + "\n" for row in range(60)]
    whole.write_text("".join(rows))
    part.write_text("".join(rows[10:]))

    def queries(*settings: str) -> list[str]:
        made = config(llama_folder, f"data.sources={part}", "validation.share=0.3", *settings)
        task = _read(made, SimpleNamespace(begin=lambda: tmp_path), None, [str(whole)])[1]  # type: ignore[arg-type]
        assert task
        return sorted(task.queries)

    expected = queries()
    monkeypatch.setattr("llama2vec.finetune.train.held_out_queries", None)  # Holds the keys of all rows
    assert queries("data.streaming=true") == expected


def test_a_seed_of_its_own_keeps_the_validation_of_all_seeds(
    llama_folder: Path, examples: list[TrainingExample]
) -> None:
    def queries(*settings: str) -> list[str]:
        made = config(llama_folder, "validation.share=0.3", *settings)
        task = _read(made, None, examples)[1]  # type: ignore[arg-type]
        assert task
        return sorted(task.queries)

    assert queries("optimizer.seed=1") != queries("optimizer.seed=2")
    own = "validation.seed=1"
    assert queries(own, "optimizer.seed=1") == queries(own, "optimizer.seed=2") == queries("optimizer.seed=1")


def test_examples_are_read_from_files_with_ids_apart(
    make_jsonl: Callable[..., Path], llama_folder: Path, tmp_path: Path
) -> None:
    files = [make_jsonl(tmp_path / f"{name}.jsonl", name) for name in ("a", "b")]
    sources = json.dumps([str(file) for file in files])
    made = config(llama_folder, f"data.sources={sources}", "data.homogeneous_batches=true", "data.limit=6")
    finetune_model(made, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["results"]["training_queries"] == 10
    files[0].write_text(files[0].read_text(encoding="utf-8").replace("river", "stone"), encoding="utf-8")
    with pytest.raises(Llama2VecError, match="examples: the content differs"):
        finetune_model(made, tmp_path / "out")


@pytest.fixture
def make_jsonl() -> Callable[..., Path]:
    def make(path: Path, name: str) -> Path:
        rows = [{"query": f"river {name} {row}", "pos": [f"stone {name} {row}"], "neg": []} for row in range(8)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return make


def test_a_servable_checkpoint_refuses_a_second_reading(
    llama_folder: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    servable = EncoderSettings(servable=True, passage_max_tokens=30)
    start = Encoder.load(llama_folder, settings=config(llama_folder).model, encoder=servable).save(tmp_path / "start")
    changes = [f"model.name={start}", "encoder.query_prompt=next", "optimizer.batch_size=4"]
    other = load_config(FinetuneConfig, None, changes)
    with pytest.raises(ContractError, match="servable is true, but queries and passages have different prompts"):
        finetune_model(other, tmp_path / "out", examples=examples)
    assert not (tmp_path / "out").exists()


WORKERS = """
import sys
from pathlib import Path
from llama2vec.config import load_config
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.model.tokenizer import load_tokenizer
from llama2vec.records import TrainingExample

model, output, *settings = sys.argv[1:]
load_tokenizer(model)(["a llama of the Andes"] * 512)  # starts the tokenizer's threads
rows = [TrainingExample(query=f"what is {n}", positives=(f"it is {n}",)) for n in range(24)]
finetune_model(load_config(FinetuneConfig, None, settings), output, examples=rows)
"""


def test_data_workers_tokenize_though_the_tokenizers_threads_stayed_in_the_first_process(
    llama_folder: Path, tmp_path: Path
) -> None:
    settings = [
        f"model.name={llama_folder}", "model.device=cpu", "model.dtype=float32", "optimizer.steps=2",
        "optimizer.batch_size=8", "optimizer.workers=2", "validation.share=0",
    ]  # fmt: skip
    command = [sys.executable, "-c", WORKERS, str(llama_folder), str(tmp_path / "out"), *settings]
    # As the command line sets it.
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "4"}
    subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_examples_that_are_saved_while_they_are_read_are_not_learned_from(
    llama_folder: Path, tmp_path: Path, saved_meanwhile: Callable[[Path, str, str], None]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"query": "old river", "pos": ["the old river"], "neg": ["a bridge"]}) + "\n")
    saved_meanwhile(data, "old", "newer")
    with pytest.raises(DataError, match=r"data\.jsonl changed while it was read"):
        finetune_model(config(llama_folder, f'data.sources=["{data}"]', "validation.share=0"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

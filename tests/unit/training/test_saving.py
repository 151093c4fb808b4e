"""In which number format a backbone is trained, and which of its weights are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import LoraSettings, ModelSettings, load_config
from llama2vec.errors import ConfigError, ModelError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.model.backbone import load_backbone
from llama2vec.pipeline.execution import execute
from llama2vec.pipeline.plan import plan_run
from llama2vec.pipeline.settings import RunConfig
from llama2vec.training.saving import check_trainable, make_trainable, training_precision


@pytest.mark.parametrize(
    ("dtype", "rank", "loaded", "mixed"),
    [
        *[("bfloat16", 0, "float32", True), ("bfloat16", 8, "bfloat16", False), ("float32", 0, "float32", False)],
        *[("float16", 0, "float32", False), ("float16", 8, "float16", False)],
    ],
)
def test_full_training_in_16_bits_keeps_float32_weights(dtype: str, rank: int, loaded: str, mixed: bool) -> None:
    settings = ModelSettings.model_validate({"dtype": dtype, "device": "cpu", "lora": {"rank": rank}})
    found, is_mixed = training_precision(settings)
    assert (found.dtype, is_mixed) == (loaded, mixed)


def test_rank_0_trains_the_model_itself_and_lora_only_its_adapters(llama_folder: Path) -> None:
    settings = ModelSettings(name=str(llama_folder), dtype="float32", device="cpu", lora=LoraSettings(rank=0))
    backbone = load_backbone(settings)
    assert make_trainable(backbone, settings, [], 0) is backbone.model
    lora = settings.model_copy(update={"lora": LoraSettings(rank=2, alpha=4)})
    model = make_trainable(load_backbone(lora), lora, [], 0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("kind", ["ctrl", "openai-gpt"])
def test_a_model_that_cannot_recompute_is_named_before_a_text_is_read(kind: str, tmp_path: Path) -> None:
    model, unread = save_tiny(kind, tmp_path / "model"), tmp_path / "missing.jsonl"
    unread.write_text("no JSON")
    given = [f"model.name={model}", "model.gradient_checkpointing=true", "model.device=cpu"]
    line = r"^model\.gradient_checkpointing: \w+ does not support it; set it to false$"
    with pytest.raises(ConfigError, match=line):
        adapt_model(load_config(AdaptConfig, None, [*given, f"text.corpus={unread}"]), tmp_path / "out")
    with pytest.raises(ConfigError, match=line):
        finetune_model(load_config(FinetuneConfig, None, [*given, f"data.sources={unread}"]), tmp_path / "out")
    plan = plan_run(load_config(RunConfig, None, [*given, f"corpus={unread}", "adapt=true"]), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.gradient_checkpointing: \w+ does not support it"):
        execute(plan)
    check_trainable(ModelSettings(name=str(model), device="cpu"))


def test_an_xlstm_is_computed_in_float32_alone(tmp_path: Path) -> None:
    model = str(save_tiny("xlstm", tmp_path))
    half, full = (
        ModelSettings.model_validate({"name": model, "device": "cpu", "dtype": "bfloat16", "lora": {"rank": rank}})
        for rank in (2, 0)
    )
    for check in (check_trainable, load_backbone):
        with pytest.raises(ModelError, match=r"computes xLSTM in float32 alone; set model\.dtype=float32 \(--dtype"):
            check(half)
    check_trainable(full)
    assert load_backbone(half.model_copy(update={"dtype": "float32"})).dtype == "float32"

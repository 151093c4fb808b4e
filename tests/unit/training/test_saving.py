"""In which number format a backbone is trained, and which of its weights are."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.training.saving import make_trainable, training_precision


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
    from llama2vec.model.backbone import load_backbone

    settings = ModelSettings(name=str(llama_folder), dtype="float32", device="cpu", lora=LoraSettings(rank=0))
    backbone = load_backbone(settings)
    assert make_trainable(backbone, settings, [], 0) is backbone.model
    lora = settings.model_copy(update={"lora": LoraSettings(rank=2, alpha=4)})
    model = make_trainable(load_backbone(lora), lora, [], 0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)

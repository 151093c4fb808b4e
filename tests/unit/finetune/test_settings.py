"""Settings of fine-tuning."""

from __future__ import annotations

import re

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("contrastive.temprature=1", "did you mean 'temperature'"),
        ("contrastive.temperature=0", "contrastive.temperature"),
        ("contrastive.weight=0", "nothing to learn"),
        ("encoder.query_prompt=both", "encoder.query_prompt"),
        ("contrastive={negatives = 0, distillation_weight = 1.0}", "its teacher's scores compare nothing"),
        (
            "contrastive={negatives = 0, positives = 2, distillation_weight = 1.0, distillation = 'margin_mse'}",
            "distillation is margin_mse, which learns from hard negatives, and negatives is 0",
        ),
        ("contrastive={negatives = 0, false_negatives = 'teacher'}", "which judges hard negatives, and negatives is 0"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(FinetuneConfig, None, [setting])


def test_the_recipe_that_is_shipped_is_read_and_trains_on_mined_negatives() -> None:
    found = load_config(FinetuneConfig, "finetune-cpu")
    assert found.optimizer.epochs == 2
    assert found.contrastive.negatives == 1

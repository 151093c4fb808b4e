"""Settings of fine-tuning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("contrastive.temprature=1", "did you mean 'contrastive.temperature'"),
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


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["contrastive.false_negative_margin=-0.1"], "contrastive.false_negative_margin needs a guide"),
        (["contrastive.false_negative_scale=relative"], "contrastive.false_negative_scale needs a guide"),
        (["validation.source=x", "validation.share=0.1"], "and validation.source takes their place"),
        (["validation.split=test"], "validation.split is that of validation.source, and none is named"),
        (["validation.source=ROWS", "validation.split=test"], "validation.split: ROWS is a file, which has no splits"),
        (["data.sources=ROWS", "data.split=dev"], "data.split: ROWS is a file, which has no splits; drop it"),
    ],
)
def test_a_setting_that_cannot_act_is_named(sets: list[str], message: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    with pytest.raises(ConfigError, match=re.escape(message.replace("ROWS", str(rows)))):
        load_config(FinetuneConfig, None, [one.replace("ROWS", str(rows)) for one in sets])


def test_epochs_beside_the_steps_of_a_recipe_are_refused_and_steps_beside_its_epochs_are_not(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[optimizer]\nsteps = 40\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"optimizer\.steps is 40 and decides how long the training is; set optimizer"
    ):
        load_config(FinetuneConfig, recipe, ["optimizer.epochs=3"])
    assert load_config(FinetuneConfig, recipe, ["optimizer.epochs=3", "optimizer.steps=0"]).optimizer.epochs == 3
    assert load_config(FinetuneConfig, "finetune-cpu", ["optimizer.steps=5"]).optimizer.steps == 5


def test_fields_that_are_named_are_in_the_plan_and_the_usual_ones_leave_it_as_it_was() -> None:
    usual, strict = FinetuneConfig(), load_config(FinetuneConfig, None, ["reading.strict=true"])
    assert usual.deciding() == strict.deciding()
    assert "reading" not in usual.deciding()
    assert "reading" not in usual.model_dump()
    named = load_config(FinetuneConfig, None, ["reading.text_field=body"])
    assert named.deciding() == {**usual.deciding(), "reading": {"text_field": "body"}}


def test_a_pretext_weight_of_0_switches_off_what_a_recipe_says_of_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[pretext]\nweight = 0.1\nlanguage = "de"\n', encoding="utf-8")
    assert load_config(FinetuneConfig, recipe, ["pretext.weight=0"]).pretext.weight == 0

"""Settings of adaptation, recipes of earlier versions included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings, load_config
from llama2vec.errors import ConfigError


def test_recipes_with_common_directions_switched_off_still_load(tmp_path: Path) -> None:
    recipe = tmp_path / "old.toml"
    recipe.write_text("[common_directions]\ncount = -1\nsentences = 400\n[optimizer]\nsteps = 7\n", encoding="utf-8")
    config = load_config(AdaptConfig, recipe)
    assert config.optimizer.steps == 7
    assert "common_directions" not in config.model_dump()


def test_recipes_that_take_common_directions_away_are_refused() -> None:
    with pytest.raises(ConfigError, match="common_directions was removed from llama2vec; delete this section"):
        load_config(AdaptConfig, None, ["common_directions.count=12"])


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.seed=-1", f"optimizer.seed={2**32}", "optimizer.learning_rate=inf", "optimizer.weight_decay=inf",
        "objective.pretext_weight=inf", "objective.self_weight=nan", "text.max_tokens=0", "text.min_words=0",
        "text.max_words=0",
    ],
)  # fmt: skip
def test_a_number_that_training_cannot_use_is_refused_by_name(setting: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(setting.partition("=")[0])):
        load_config(AdaptConfig, None, [setting])


def test_an_objective_without_a_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is nothing to learn"):
        load_config(AdaptConfig, None, ["objective.self_weight=0", "objective.next_weight=0"])


def test_an_adaptation_ends_with_several_layers_and_a_bare_model_with_one() -> None:
    config = load_config(AdaptConfig, None, ["encoder.passage_max_tokens=64"])
    assert config.encoder.layers == 8
    assert EncoderSettings().layers == 1


def test_stop_words_of_earlier_recipes_become_those_of_the_text() -> None:
    assert load_config(AdaptConfig, None, ["objective.stop_words=false"]).text.stop_words == "none"
    assert load_config(AdaptConfig, None, ["objective.stop_words=true"]) == AdaptConfig()
    # What the text itself says counts.
    both = ["objective.stop_words=false", "text.stop_words=nltk", "objective.next_weight=0.5"]
    config = load_config(AdaptConfig, None, both)
    assert (config.text.stop_words, config.objective.next_weight) == ("nltk", 0.5)
    with pytest.raises(ConfigError, match=r"unknown key 'objective\.stop_words'"):
        load_config(AdaptConfig, None, ["objective.stop_words=nltk"])

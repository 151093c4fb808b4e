"""Settings of adaptation."""

from __future__ import annotations

import re

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings, load_config
from llama2vec.errors import ConfigError


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

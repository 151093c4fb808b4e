"""Settings made in Python: the mistakes of a program in the words that recipes get."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import ModelSettings
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ModelSettings(dtype="fp16"), "ModelSettings: dtype: Input should be 'auto', .* (got 'fp16')"),
        (lambda: ModelSettings(devise="cpu"), "ModelSettings: unknown key 'devise'; did you mean 'device'?"),
        (
            lambda: AdaptConfig.model_validate({"model": {"lora": {"rnk": 4}}}),
            "AdaptConfig: unknown key 'model.lora.rnk'; did you mean 'model.lora.rank'?",
        ),
        (lambda: AdaptConfig(model={"dtype": "fp16"}), "AdaptConfig: model.dtype: Input should be"),
        (lambda: PassageSettings(tokens="many"), "PassageSettings: tokens: .*(got 'many')"),
        (lambda: AdaptConfig.model_validate(3), "AdaptConfig: .*(got 3)"),
    ],
)
def test_settings_made_in_python_are_refused_in_the_words_of_recipes(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert re.match(said.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?"), str(caught.value))
    assert "--set" not in str(caught.value)
    assert "\n" not in str(caught.value)

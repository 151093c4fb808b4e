"""Settings made in Python: the mistakes of a program in the words that recipes get."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import ModelSettings, Settings, load_config
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError
from llama2vec.generate.settings import GenerateConfig
from llama2vec.mine.settings import MineConfig
from llama2vec.pipeline.settings import RunConfig
from llama2vec.retrieve.syncing.following import SyncSettings


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


@pytest.mark.parametrize(
    ("schema", "sections"),
    [
        (SyncSettings, ("index", "passages")),
        (MineConfig, ("mine", "passages")),
        (GenerateConfig, ("generate", "passages")),
    ],
)
def test_one_language_is_that_of_every_section_without_its_own(
    schema: type[Settings], sections: tuple[str, ...]
) -> None:
    def languages(*sets: str) -> list[str]:
        found = load_config(schema, None, sets).model_dump()
        return [found[name]["language"] for name in sections]

    assert languages() == ["en", "en"]
    assert languages("language=de") == ["de", "de"]
    assert languages(f"{sections[0]}.language=fr", "language=de") == ["fr", "de"]
    with pytest.raises(ConfigError, match="--set: language: 'german' is not an ISO 639 code"):
        languages("language=german")


@pytest.mark.parametrize(
    ("schema", "key", "hint"),
    [
        (AdaptConfig, "language", "did you mean 'text.language'?"),
        (AdaptConfig, "optimizer.rank", "known here: "),
        (SyncSettings, "int8", "did you mean 'index.int8'?"),
        (SyncSettings, "languag", "did you mean 'language'?"),
        (RunConfig, "finetune.steps", "did you mean 'finetune.optimizer.steps'?"),
        (RunConfig, "dtype", "did you mean 'model.dtype'?"),
        (RunConfig, "most_copied", "did you mean 'pairs.generated.most_copied'?"),
        (RunConfig, "bm25", "did you mean 'mine.bm25' or 'index.bm25'?"),
    ],
)
def test_the_hint_for_an_unknown_key_knows_its_name_in_the_sections_below(
    schema: type[Settings], key: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(schema, None, ["corpus=c", f"{key}=1"] if schema is RunConfig else [f"{key}=1"])
    assert f"unknown key '{key}'; {hint}" in str(caught.value)

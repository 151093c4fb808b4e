from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from encoders import encoder_for

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, PromptSettings
from llama2vec.errors import ContractError
from llama2vec.model.limits import check_servable, obstacles, usable_layers
from llama2vec.model.prompt import PromptIds

ONE_SLOT = PromptIds((1,), {"self": (8, 2), "next": (9, 2)}, 1)
FAST, SLOW = SimpleNamespace(is_fast=True), SimpleNamespace(is_fast=False)
ALIKE = EncoderSettings(query_max_tokens=64, passage_max_tokens=64)


@pytest.mark.parametrize(
    ("changes", "ids", "told"),
    [
        ({"layers": 3}, ONE_SLOT, ["its vectors are the mean of 3 layers"]),
        ({"query_prompt": "next"}, ONE_SLOT, ["queries and passages have different prompts"]),
        ({"query_max_tokens": 32}, ONE_SLOT, ["queries and passages are cut at different lengths"]),
        ({}, PromptIds((1,), {"self": (8, 9)}, 2), ["its vectors are the mean of 2 slots"]),
        ({"pooling": "mean"}, ONE_SLOT, ["its mean leaves out the tokens before a text"]),
        ({"pooling": "mean", "query_prompt": "next"}, PromptIds((), {}, 2), []),
        ({}, PromptIds((1,), {"self": (2,)}, 1, repeat=(5,)), ["it reads a text twice"]),
        ({}, ONE_SLOT, []),
    ],
)
def test_what_keeps_other_programs_from_giving_the_vectors(
    changes: dict[str, object], ids: PromptIds, told: list[str]
) -> None:
    settings = EncoderSettings.model_validate(ALIKE.model_dump() | changes)
    assert obstacles(ids, settings) == told
    check_servable(ids, settings, FAST)
    asked = settings.model_copy(update={"servable": True})
    if told:
        with pytest.raises(ContractError, match=rf"encoder\.servable is true, but {told[0]}: other programs cannot"):
            check_servable(ids, asked, FAST)
    else:
        check_servable(ids, asked, FAST)


def test_both_prompts_of_one_wording_are_one_reading() -> None:
    ids = PromptIds((1,), {"self": (2,), "next": (2,)}, 1)
    assert obstacles(ids, ALIKE.model_copy(update={"query_prompt": "next"})) == []


def test_a_raw_model_with_eight_slots_is_refused_where_servable_is_asked_for(llama_folder: Path) -> None:
    with pytest.raises(ContractError, match="the mean of 8 slots"):
        encoder_for(llama_folder, PROMPT_RECIPES["released"], EncoderSettings(servable=True))
    with pytest.raises(ContractError, match="leaves out the tokens before a text"):
        encoder_for(llama_folder, None, EncoderSettings(servable=True, pooling="mean"))
    encoder_for(llama_folder, PromptSettings(begin="none"), EncoderSettings(servable=True, pooling="mean"))


def test_layers_of_one_shape_are_usable(llama_folder: Path) -> None:
    assert usable_layers(encoder_for(llama_folder).backbone) == 2


def test_a_slow_tokenizer_is_refused_where_servable_is_asked_for() -> None:
    check_servable(ONE_SLOT, ALIKE, SLOW)
    with pytest.raises(ContractError, match="a slow tokenizer cannot hold the prompt"):
        check_servable(ONE_SLOT, ALIKE.model_copy(update={"servable": True}), SLOW)

"""Fine-tuning keeps the contract of the encoder that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoders import encoder_for

from llama2vec.config import EncoderSettings, PromptSettings, load_config
from llama2vec.errors import ContractError
from llama2vec.finetune.contract import check_contract, resolve_contract
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.model.prompt import prompt_ids
from llama2vec.model.tokenizer import load_tokenizer


def configured(model: Path, *changes: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, [f"model.name={model}", *changes])


@pytest.fixture(scope="module")
def start(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a contract of its own."""
    prompts = PromptSettings(recipe="mine", self_prompt=" That is: ", next_prompt=" Then: ")
    settings = EncoderSettings(query_prompt="self", passage_max_tokens=30)
    return encoder_for(llama_folder, prompts, settings).save(tmp_path_factory.mktemp("start") / "model")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "prompts=paper",
            r"prompts\.next_prompt: .* was made with ' Then: ', the recipe says '\\nThe next sentence: '",
        ),
        ("prompts.self_prompt=' no'", r"prompts\.self_prompt: .*' That is: '.*remove prompts\.self_prompt"),
        ("encoder.passage_max_tokens=31", r"encoder\.passage_max_tokens: .* was made with 30, the recipe says 31"),
        ("encoder.pooling=mean", r"encoder\.pooling: .*'slots'.*'mean'.*start from a raw model"),
    ],
)
def test_a_recipe_that_contradicts_the_checkpoint_is_refused_by_field(setting: str, message: str, start: Path) -> None:
    with pytest.raises(ContractError, match=message):
        check_contract(configured(start, setting))


def test_a_recipe_may_repeat_what_the_checkpoint_says(start: Path) -> None:
    made = configured(start, "prompts.self_prompt=' That is: '", "encoder.pooling=slots")
    prompts, settings = resolve_contract(made)
    assert (prompts.recipe, settings.passage_max_tokens, settings.query_prompt) == ("mine", 30, "next")


def test_limits_that_count_the_prompt_are_compared_without_it(start: Path) -> None:
    tokenizer = load_tokenizer(str(start))
    prompt = 30 + len(tokenizer(" That is: ", add_special_tokens=False)["input_ids"])
    special = prompt_ids(tokenizer, PromptSettings(self_prompt=" That is: ", next_prompt=" Then: "))
    whole = next(number for number in range(prompt, prompt + 9) if special.text_room(number, "self") == 30)
    counted = ["encoder.count_prompt=true"]
    kept = resolve_contract(configured(start, *counted, f"encoder.passage_max_tokens={whole}"))[1]
    assert kept.passage_max_tokens == 30
    assert resolve_contract(configured(start, *counted))[1].passage_max_tokens == 30
    told = r"encoder\.passage_max_tokens: .* reads 30 tokens of a text, and 500 with the prompt leave .* data\.passage"
    with pytest.raises(ContractError, match=told):
        check_contract(configured(start, *counted, "encoder.passage_max_tokens=500"))


def test_a_raw_model_takes_what_the_recipe_says(llama_folder: Path) -> None:
    made = configured(llama_folder, "encoder.passage_max_tokens=31", "encoder.pooling=mean")
    assert check_contract(made) is None
    prompts, settings = resolve_contract(made)
    assert (prompts, settings.passage_max_tokens, settings.pooling) == (made.prompts, 31, "mean")


def test_a_servable_checkpoint_keeps_its_one_reading(llama_folder: Path, tmp_path: Path) -> None:
    servable = EncoderSettings(servable=True, passage_max_tokens=30)
    start = encoder_for(llama_folder, settings=servable).save(tmp_path / "start")
    kept = resolve_contract(configured(start, "encoder.servable=true"))[1]
    assert (kept.query_prompt, kept.passage_prompt, kept.query_max_tokens, kept.servable) == ("self", "self", 30, True)

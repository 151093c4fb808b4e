"""What adaptation refuses before it loads or writes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import load_config
from llama2vec.errors import ConfigError, ModelNotFoundError
from llama2vec.records import Passage

PASSAGES = [Passage("a-1", "The stone bridge crosses the cold river near the market.")]


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_an_attention_kernel_that_cannot_mask_the_joint_sequence_is_refused(
    attention: str, llama_folder: Path, tmp_path: Path
) -> None:
    config = load_config(AdaptConfig, None, [f'model.name="{llama_folder}"', f"model.attention={attention}"])
    with pytest.raises(ConfigError, match=r"use sdpa or eager"):
        adapt_model(config, tmp_path / "out", passages=PASSAGES)
    assert not (tmp_path / "out").exists()


def test_adaptation_without_a_corpus_says_where_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"text\.corpus is empty"):
        adapt_model(AdaptConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["prompts=repllama"], r"prompts\.next_prefix cannot be adapted"),
        (["prompts=echo"], r"prompts\.repeat cannot be adapted"),
        (["prompts=last-token"], r"prompts\.slot is last and a prompt is empty"),
    ],
)
def test_prompts_that_only_encode_are_refused(settings: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt_model(load_config(AdaptConfig, None, settings), tmp_path / "out", passages=PASSAGES)
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_named_before_the_text_is_read(tmp_path: Path) -> None:
    def unread() -> Iterator[Passage]:
        pytest.fail("reads the text")
        yield

    config = load_config(AdaptConfig, None, [f"model.name={tmp_path / 'nothere'}"])
    with pytest.raises(ModelNotFoundError, match="no such model folder"):
        adapt_model(config, tmp_path / "out", passages=unread())
    assert not (tmp_path / "out").exists()

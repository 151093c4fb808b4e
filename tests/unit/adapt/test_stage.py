"""What adaptation refuses before it loads or writes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import load_config
from llama2vec.errors import ConfigError, ModelNotFoundError
from llama2vec.pipeline.settings import RunConfig
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


@pytest.mark.parametrize(
    ("settings", "prompts", "told"),
    [
        ([], ("self", "self"), ""),
        (["objective.next_weight=0"], ("self", "self"), "objective.next_weight is 0: the encoder reads with the SELF"),
        (["objective.self_weight=0"], ("next", "next"), "objective.self_weight is 0: the encoder reads with the NEXT"),
        (
            ["objective.self_weight=0", "encoder.passage_prompt=self"],
            ("next", "self"),
            "the SELF prompt is not trained, and the encoder reads with it: set encoder.passage_prompt=next",
        ),
        (
            ["objective.next_weight=0", "encoder.query_prompt=next", "encoder.passage_prompt=next"],
            ("next", "next"),
            "set encoder.query_prompt=self and encoder.passage_prompt=self",
        ),
        (["objective.self_weight=0", "encoder.servable=true"], ("next", "next"), "reads with the NEXT prompt"),
        (
            ["objective.self_weight=0", "encoder.servable=true", "encoder.query_prompt=self"],
            ("self", "self"),
            "set encoder.query_prompt=next and encoder.passage_prompt=next",
        ),
        (["objective.self_weight=0", "encoder.pooling=mean"], ("next", "next"), ""),
    ],
)
def test_the_encoder_reads_with_the_prompt_that_is_trained(
    settings: list[str], prompts: tuple[str, str], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(AdaptConfig, None, settings)
    assert (config.encoder.query_prompt, config.encoder.passage_prompt) == prompts
    with caplog.at_level("INFO"), pytest.raises(ConfigError, match=r"text\.corpus is empty"):
        adapt_model(config, tmp_path / "out")
    assert told in caplog.text if told else "prompt" not in caplog.text
    assert (AdaptConfig().encoder.query_prompt, AdaptConfig().encoder.passage_prompt) == ("self", "self")


def test_a_run_reads_with_the_prompt_that_its_adaptation_trains() -> None:
    shared = ["corpus=c.jsonl", "adapt.objective.self_weight=0", "encode={}"]
    assert load_config(RunConfig, None, shared).trained_encoder.query_prompt == "next"
    explicit = load_config(RunConfig, None, [*shared, "encoder.query_prompt=self"])
    assert (explicit.trained_encoder.query_prompt, explicit.trained_encoder.passage_prompt) == ("self", "next")


def test_a_recipe_with_both_tasks_or_with_set_prompts_keeps_its_plan() -> None:
    """Trainings that earlier versions began compare it with theirs."""
    plain = AdaptConfig()
    assert plain.deciding() == AdaptConfig.parsed(plain.model_dump()).deciding()
    sides = ["encoder.query_prompt=next", "encoder.passage_prompt=next"]
    for off in ("self", "next"):
        there = load_config(AdaptConfig, None, [f"objective.{off}_weight=0", *sides]).deciding()
        assert there == {
            **plain.deciding(),
            "objective": {**plain.deciding()["objective"], f"{off}_weight": 0.0},
            "encoder": {**plain.deciding()["encoder"], "query_prompt": "next", "passage_prompt": "next"},
        }


def test_a_limit_that_is_spread_decides_otherwise_than_one_that_took_the_first_passages(tmp_path: Path) -> None:
    def text(*settings: str) -> dict[str, object]:
        found: dict[str, object] = load_config(AdaptConfig, None, [*settings]).deciding()["text"]
        return found

    assert text("text.corpus=a.jsonl", "text.limit=3")["rows"] == "spread over the source"
    assert all("rows" not in text(*one) for one in (["text.corpus=a.jsonl"], ["text.corpus=hf:a/b", "text.limit=3"]))

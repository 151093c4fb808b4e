"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import CommandLine

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.cli.options import (
    as_overrides,
    bm25_language,
    load_encoder,
    model_settings,
    report,
    with_options,
)
from llama2vec.config import PROMPT_RECIPES, load_config
from llama2vec.errors import ConfigError
from llama2vec.terminal import is_first_process


def test_results_are_printed_by_the_first_of_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, expected in (("0", "done\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        report("done")
        assert is_first_process() is (rank == "0")
        assert capsys.readouterr().out == expected


@pytest.mark.parametrize("name", ["kraniche/größe.jsonl", "🦙.jsonl", 'a "b" = c\\d', "a\x7fb\tc", "true"])
def test_a_path_reaches_the_settings_letter_by_letter(name: str) -> None:
    config = load_config(AdaptConfig, None, as_overrides({"text.corpus": name, "model.name": None}))
    assert (config.text.corpus, config.model.name) == (name, AdaptConfig().model.name)


def test_an_option_and_a_set_of_one_key_agree_or_are_refused() -> None:
    options = (
        ("--model", "model.name", "A"),
        ("--data", "data.sources", ["a.jsonl", "b.jsonl"]),
        ("--depth", "depth", None),
    )
    sets = ['model.name = "A"', 'data.sources=["a.jsonl", "b.jsonl"]', "depth=5"]
    assert with_options(sets, *options) == ['model.name="A"', 'data.sources=["a.jsonl", "b.jsonl"]', *sets]
    with pytest.raises(
        ConfigError, match=r"^--model A and --set model\.name=B give model\.name different values; drop"
    ):
        with_options(["model.name=B"], *options)
    with pytest.raises(ConfigError, match=r"^--data a\.jsonl b\.jsonl and --set data\.sources=a\.jsonl give"):
        with_options(["data.sources=a.jsonl"], *options)


@pytest.mark.parametrize(
    ("call", "option", "key"),
    [
        (("mine", "e.jsonl", "-o", "m.jsonl"), "--teacher", "mine.teacher"),
        (("adapt", "-o", "a"), "--corpus", "text.corpus"),
        (("adapt", "-o", "a"), "--model", "model.name"),
        (("finetune", "-o", "a"), "--data", "data.sources"),
        (("finetune", "-o", "a"), "--model", "model.name"),
        (("generate", "c.jsonl", "-o", "g.jsonl"), "--model", "generate.model"),
        (("run", "-o", "a"), "--corpus", "corpus"),
        (("run", "-o", "a", "--corpus", "c"), "--model", "model.name"),
        (("evaluate", "bm25", "--task", "beir/x"), "--metric", "metrics"),
        (("evaluate", "bm25", "--task", "beir/x"), "--depth", "depth"),
    ],
)
def test_every_option_that_sets_a_key_is_compared_with_its_set(
    command_line: CommandLine, call: tuple[str, ...], option: str, key: str
) -> None:
    message = command_line.refused(*call, option, "11", "--set", f"{key}=12")
    assert f"{option} 11 and --set {key}=12 give {key} different values; drop one of them" in message


@pytest.mark.parametrize(
    "call",
    [
        ("encode", "m", "c.jsonl", "-o", "s"), ("generate", "c.jsonl", "-o", "g.jsonl"), ("search", "i", "q"),
        ("mine", "e.jsonl", "-o", "m.jsonl"), ("distill", "m", "-o", "t", "--queries", "q"),
        ("rerank", "r.trec", "--model", "m", "-o", "o.trec"),
    ],
)  # fmt: skip
def test_a_number_format_that_is_unknown_names_the_option(command_line: CommandLine, call: tuple[str, ...]) -> None:
    line = command_line.refused(*call, "--dtype", "float8")
    assert "--dtype float8: unknown number format; choose from auto, float32, bfloat16, float16" in line


def test_a_language_that_is_no_code_names_the_option() -> None:
    assert bm25_language(None, bm25=True) == "en"
    assert bm25_language("de", bm25=True) == "de"
    assert bm25_language(None, bm25=False) is None
    with pytest.raises(ConfigError, match="--language: "):
        bm25_language("German", bm25=True)
    with pytest.raises(ConfigError, match="--language sets the language of BM25; add --bm25"):
        bm25_language("de", bm25=False)


def test_prompts_and_settings_reach_the_encoder(llama_folder: Path) -> None:
    sets = ["pooling=mean", "passage_max_tokens=9"]
    encoder = load_encoder(str(llama_folder), "float32", "cpu", "released", sets)
    assert encoder.contract.prompts == PROMPT_RECIPES["released"]
    assert (encoder.contract.encoder.pooling, encoder.contract.encoder.passage_max_tokens) == ("mean", 9)
    with pytest.raises(ConfigError, match="no recipe called 'nope'"):
        load_encoder(str(llama_folder), "float32", "cpu", "nope")
    with pytest.raises(ConfigError, match="unknown key 'poling'; did you mean 'pooling'"):
        load_encoder(str(llama_folder), "float32", "cpu", None, ["poling=mean"])


def test_how_the_model_is_read_is_set_beside_the_encoder(llama_folder: Path) -> None:
    encoder = load_encoder(str(llama_folder), "float32", "cpu", None, ["model.compile=false", "pooling=mean"])
    assert (encoder.compile, encoder.contract.encoder.pooling) == (False, "mean")
    assert load_encoder(str(llama_folder), "float32", "cpu").compile == "auto"
    settings, others = model_settings("float32", "cpu", ["model.compile=true", "model.attention=eager", "index.x=1"])
    assert (settings.compile, settings.attention, others) == (True, "eager", ["index.x=1"])
    with pytest.raises(ConfigError, match=r"model\.compile and model\.attention can be set"):
        model_settings("float32", "cpu", ["model.name=other"])
    with pytest.raises(ConfigError, match="compile"):
        model_settings("float32", "cpu", ["model.compile=perhaps"])


@pytest.mark.parametrize("device", ["banana", "meta", "cuda:7"])
def test_a_device_that_is_not_here_is_one_line(llama_folder: Path, command_line: CommandLine, device: str) -> None:
    line = command_line.refused("explain", llama_folder, "-q", "x", "-p", "y", "--device", device)
    assert f"device {device}: not usable here" in line

"""Passages are measured in the model's own tokens, with or without its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import encoder_for

from llama2vec.config import PROMPT_RECIPES, EncoderSettings
from llama2vec.data.documents.document import Document
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError, TokenizerError
from llama2vec.model.source import ModelSpec
from llama2vec.model.tokens import encoder_splitter, model_splitter, token_spans
from llama2vec.records import Passage


@pytest.mark.parametrize("metaspace", [False, True])
def test_no_passage_is_longer_as_the_model_reads_it(
    make_tokenizer: Callable[..., Any], sentences: list[str], metaspace: bool
) -> None:
    from llama2vec.data.documents.splitting import Splitter

    tokenizer = make_tokenizer(metaspace=metaspace)
    splitter = Splitter(PassageSettings(tokens=48, overlap=8), token_spans(tokenizer))
    text = " ".join(sentences[:20]) + "\n\n" + "羊驼生活在山上。" * 20
    found = list(splitter.split(Document("d", text, "The old harbour")))
    lengths = [len(tokenizer(one.full_text, add_special_tokens=False)["input_ids"]) for one in found]
    assert len(found) > 10
    assert 40 < max(lengths) <= 48


def test_a_splitter_needs_no_weights_and_is_that_of_the_loaded_encoder(llama_folder: Path, tmp_path: Path) -> None:
    released = PROMPT_RECIPES["released"]
    settings = EncoderSettings(passage_max_tokens=40)
    encoder = encoder_for(llama_folder, released, settings)
    raw = ModelSpec(path=str(llama_folder), prompts=released, encoder=settings)
    encoder.save(tmp_path / "saved")
    saved = ModelSpec(path=str(tmp_path / "saved"))
    plans = [encoder_splitter(encoder).plan, model_splitter(raw).plan, model_splitter(saved).plan]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0]["tokens"] == 40
    (tmp_path / "saved" / "model.safetensors").unlink()
    assert model_splitter(saved).plan == plans[0]


def test_passages_are_as_long_as_the_model_reads_at_most(llama_folder: Path) -> None:
    context = ModelSpec(path=str(llama_folder), encoder=EncoderSettings(passage_max_tokens=100_000))
    reads = encoder_for(llama_folder, settings=EncoderSettings(passage_max_tokens=100_000)).reading("passage")[1]
    assert model_splitter(context).tokens == min(256, reads)
    with pytest.raises(ConfigError, match=f"longer than the {reads} that the model reads"):
        model_splitter(context, PassageSettings(tokens=reads + 1))


def test_another_tokenizer_is_another_plan(make_tokenizer: Callable[..., Any], llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    plan = encoder_splitter(encoder).plan
    encoder.backbone.tokenizer = make_tokenizer(vocabulary=110)
    assert encoder_splitter(encoder).plan["tokenizer"] != plan["tokenizer"]


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(TokenizerError, match="splitting texts needs a fast tokenizer"):
        token_spans(Slow())


def test_an_encoder_counts_the_passages_that_it_cuts(llama_folder: Path, sentences: list[str]) -> None:
    passages = [Passage(str(number), text, "Title") for number, text in enumerate(sentences)]
    tokenizer = encoder_for(llama_folder).backbone.tokenizer
    lengths = [len(tokenizer(one.full_text, add_special_tokens=False)["input_ids"]) for one in passages]
    limit = sorted(lengths)[len(lengths) // 2]
    encoder = encoder_for(llama_folder, settings=EncoderSettings(passage_max_tokens=limit))
    assert 0 < encoder.count_cut(passages) == sum(length > limit for length in lengths)

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import encoder_for
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, PromptSettings
from llama2vec.errors import TokenizerError
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.prompt import prompt_ids, prompted_texts
from llama2vec.model.publish.prompted_tokenizer import (
    prompted_tokenizer,
    put_prompt_into_tokenizer,
    reads_sides_alike,
    with_limits,
)

TEXTS = [*GOLDEN_TEXTS, "", " river", "stone\n"]


@pytest.mark.parametrize("recipe", ["paper", "released", "repllama"])
def test_the_file_alone_gives_the_encoder_s_ids_cut_at_the_limit(recipe: str, llama_folder: Path) -> None:
    settings = EncoderSettings(query_prompt="next", query_max_tokens=9, passage_max_tokens=30)
    encoder = encoder_for(llama_folder, PROMPT_RECIPES[recipe], settings)
    tokenizer, ids = encoder.backbone.tokenizer, encoder.contract.ids
    assert not reads_sides_alike(encoder.contract)
    for side, prompt, most in (("query", "next", 9), ("passage", "self", 30)):
        content = prompted_tokenizer(tokenizer, encoder.contract, side)
        around = len(ids.before(prompt)) + len(ids.after(prompt))
        alone = Tokenizer.from_str(json.dumps(with_limits(content, most + around, 0, "<pad>")))
        expected = prompted_texts(tokenizer, TEXTS, ids, prompt, most)
        assert [alone.encode(text).ids for text in TEXTS] == expected
        width = max(map(len, expected))
        assert {len(row.ids) for row in alone.encode_batch(TEXTS)} == {width}


@pytest.mark.parametrize("kind", ["byte_level", "metaspace", "llama_2"])
def test_transformers_adds_the_prompt_and_our_own_reading_stays(
    kind: str, make_tokenizer: Callable[..., Any], llama_folder: Path, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(metaspace=kind == "metaspace", llama_2=kind == "llama_2")
    encoder = encoder_for(llama_folder)
    encoder.backbone.tokenizer = tokenizer
    again = type(encoder).from_backbone(encoder.backbone)
    assert reads_sides_alike(again.contract) is False  # two limits
    tokenizer.save_pretrained(tmp_path)
    put_prompt_into_tokenizer(tmp_path, tokenizer, again.contract)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    ids = again.contract.ids
    assert prompt_ids(opened, again.contract.prompts) == ids
    expected = prompted_texts(tokenizer, TEXTS[:6], ids, "self", 10_000)
    assert [opened(text)["input_ids"] for text in TEXTS[:6]] == expected
    assert prompted_texts(opened, TEXTS[:6], ids, "self", 10_000) == expected


@pytest.mark.parametrize(
    "prompts",
    [
        PROMPT_RECIPES["one-word"],
        PROMPT_RECIPES["repllama"],
        PromptSettings(prefix="a text, a "),
        PromptSettings(prefix="a ", begin="none"),
        PromptSettings(prefix="a ", begin="bos"),
    ],
    ids=["one-word", "repllama", "holds the probe", "no begin", "begin"],
)
@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("pairing", ["self", "next"])
def test_a_servable_encoder_with_a_prefix_opens_again_with_the_same_vectors(
    pairing: str, metaspace: bool, prompts: PromptSettings, make_tokenizer: Callable[..., Any], llama_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    base = Path(shutil.copytree(llama_folder, tmp_path / "base"))
    make_tokenizer(metaspace=metaspace).save_pretrained(base)
    settings = EncoderSettings.model_validate({"servable": True, "query_prompt": pairing, "passage_prompt": pairing})
    encoder = encoder_for(base, prompts, settings)
    encoder.save(tmp_path / "saved")
    again = encoder_for(tmp_path / "saved")
    assert again.contract.ids == encoder.contract.ids
    np.testing.assert_array_equal(again.encode_passages(TEXTS), encoder.encode_passages(TEXTS))
    # Its tokenizer serves further training and a save over it as well.
    assert prompt_ids(again.backbone.tokenizer, prompts) == encoder.contract.ids
    again.save(tmp_path / "saved", overwrite=True)
    assert encoder_for(tmp_path / "saved").contract_hash == again.contract_hash


def test_a_byte_level_processor_stays_for_the_positions_of_tokens(llama_folder: Path) -> None:
    encoder = encoder_for(llama_folder)
    backend = encoder.backbone.tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    content["post_processor"] = {"type": "Sequence", "processors": [level, content["post_processor"]]}
    encoder.backbone.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    made = prompted_tokenizer(encoder.backbone.tokenizer, encoder.contract, "passage")
    assert [part["type"] for part in made["post_processor"]["processors"]] == ["ByteLevel", "TemplateProcessing"]


def test_a_slow_tokenizer_is_refused(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_for(llama_folder)
    monkeypatch.setattr(type(encoder.backbone.tokenizer), "is_fast", False)
    with pytest.raises(TokenizerError, match="slow tokenizer cannot hold the prompt"):
        prompted_tokenizer(encoder.backbone.tokenizer, encoder.contract, "passage")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from encoders import FLOAT32, encoder_for
from tokenizers import Regex, pre_tokenizers

from llama2vec.config import PROMPT_RECIPES, EncoderSettings, PromptSettings
from llama2vec.errors import ModelError
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.publish.gguf_file import GGUF_FILE, write_gguf

SERVABLE = EncoderSettings(servable=True, passage_max_tokens=60)
LLAMA_3 = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    ]
)  # fmt: skip


def value(file: Path, key: str) -> Any:
    return gguf.GGUFReader(file).get_field(key).contents()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("kind", "changes"), [("llama", {}), ("mistral", {"sliding_window": None}), ("qwen3", {"head_dim": 128})]
)
def test_transformers_reads_the_same_vectors_from_the_file(
    kind: str, changes: dict[str, Any], save_model: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = encoder_for(save_model(tmp_path / "base", kind, **changes), None, SERVABLE)
    write_gguf(encoder, tmp_path / GGUF_FILE)
    again = Encoder.load(tmp_path / GGUF_FILE, settings=FLOAT32, encoder=SERVABLE)
    np.testing.assert_allclose(again.encode_passages(GOLDEN_TEXTS), encoder.encode_passages(GOLDEN_TEXTS), atol=1e-5)


def test_the_file_names_pooling_tokenizer_and_contract(llama_folder: Path, tmp_path: Path) -> None:
    encoder, file = encoder_for(llama_folder, None, SERVABLE), tmp_path / GGUF_FILE
    write_gguf(encoder, file)
    assert value(file, "llama.pooling_type") == gguf.PoolingType.LAST
    assert (value(file, "tokenizer.ggml.add_bos_token"), value(file, "tokenizer.ggml.add_eos_token")) == (True, False)
    assert (value(file, "tokenizer.ggml.model"), value(file, "tokenizer.ggml.pre")) == ("gpt2", "gpt-2")
    assert json.loads(value(file, "llama2vec.contract")) == encoder.contract.to_dict()
    tokens, kinds = value(file, "tokenizer.ggml.tokens"), value(file, "tokenizer.ggml.token_type")
    assert [encoder.backbone.tokenizer.convert_tokens_to_ids(word) for word in tokens] == list(range(len(tokens)))
    assert [word for word, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL] == [
        "<pad>", "<s>", "</s>",
    ]  # fmt: skip


def test_a_prompt_of_eos_alone_is_added_by_llama_cpp_and_mean_pooling_is_named(
    llama_folder: Path, tmp_path: Path
) -> None:
    bare = PromptSettings(self_prompt="", next_prompt="")
    write_gguf(encoder_for(llama_folder, bare, SERVABLE), tmp_path / "bare.gguf")
    assert value(tmp_path / "bare.gguf", "tokenizer.ggml.add_eos_token")
    mean = EncoderSettings(servable=True, pooling="mean")
    write_gguf(encoder_for(llama_folder, PromptSettings(begin="none"), mean), tmp_path / "mean.gguf")
    assert value(tmp_path / "mean.gguf", "llama.pooling_type") == gguf.PoolingType.MEAN
    assert not value(tmp_path / "mean.gguf", "tokenizer.ggml.add_bos_token")


def test_smaller_number_formats_are_smaller_and_near(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder, None, SERVABLE)
    sizes = []
    for quantize, most in (("none", 1e-5), ("float16", 5e-3), ("int8", 5e-2)):
        file = tmp_path / f"{quantize}.gguf"
        write_gguf(encoder, file, quantize)
        sizes.append(file.stat().st_size)
        again = Encoder.load(file, settings=FLOAT32, encoder=SERVABLE)
        gap = np.abs(again.encode_passages(GOLDEN_TEXTS) - encoder.encode_passages(GOLDEN_TEXTS)).max()
        assert gap < most
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("kind", "prompts", "settings", "told"),
    [
        ("llama", "paper", EncoderSettings(layers=2), "its vectors are the mean of 2 layers"),
        ("llama", "released", EncoderSettings(), "its vectors are the mean of 8 slots"),
        ("gpt2", "paper", EncoderSettings(), "its architecture is gpt2; llama.cpp's own converter may know it"),
        ("mistral_window", "paper", EncoderSettings(), "its attention has a window"),
    ],
)
def test_what_llama_cpp_cannot_pool_or_this_writer_does_not_know_is_refused(
    kind: str, prompts: str, settings: EncoderSettings, told: str, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = encoder_for(save_model(tmp_path / "base", kind), PROMPT_RECIPES[prompts], settings)
    with pytest.raises(ModelError, match=f"cannot become GGUF: {told}"):
        write_gguf(encoder, tmp_path / GGUF_FILE)
    assert not (tmp_path / GGUF_FILE).exists()


def test_the_way_a_tokenizer_splits_has_a_name_or_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder, None, SERVABLE)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for splits, name in (
        ([pre_tokenizers.Digits(individual_digits=True), level], "smollm"),
        ([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), level], "llama-bpe"),
        ([pre_tokenizers.Split(Regex(LLAMA_3.replace("{1,3}", "")), "isolated"), level], "qwen2"),
    ):
        encoder.backbone.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
        write_gguf(encoder, tmp_path / f"{name}.gguf")
        assert value(tmp_path / f"{name}.gguf", "tokenizer.ggml.pre") == name
    encoder.backbone.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(ModelError, match="its tokenizer is none that this writer knows"):
        write_gguf(encoder, tmp_path / "other.gguf")

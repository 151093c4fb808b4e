"""Models with every kind of tokenizer and embedding table: loaded, adapted, saved, loaded, encoded and verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import FLOAT32
from safetensors import safe_open

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import load_config
from llama2vec.errors import ModelError, TokenizerError
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import read_golden
from llama2vec.model.prompt import prompted_texts
from llama2vec.records import Passage
from llama2vec.verify.backends import open_backend
from llama2vec.verify.plain import input_as_text
from llama2vec.verify.verification import verify

pytestmark = pytest.mark.slow
TEXTS = ["The stone bridge of the river.", " winter  market ", "castle", ""]
CHAT = "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"


def recipe(folder: Path, prompts: str, *more: str) -> AdaptConfig:
    overrides = (
        f'model.name="{folder}"', "model.dtype=float32", "model.device=cpu", "model.lora.rank=2", "text.max_words=12",
        "text.held_out=0", "optimizer.steps=2", "optimizer.batch_size=2", "encoder.layers=2", f"prompts={prompts}",
    )  # fmt: skip
    return load_config(AdaptConfig, None, [*overrides, *more])


def adapted(folder: Path, output: Path, sentences: list[str], prompts: str = "paper", *more: str) -> Encoder:
    """Go through every step with a model folder, and return the saved encoder, loaded."""
    passages = [Passage(f"a-{number}", text) for number, text in enumerate(sentences[:6])]
    trained = adapt_model(recipe(folder, prompts, *more), output, passages=passages)
    log = (output / "log.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, log) if "loss" in line]
    assert losses
    assert np.isfinite(losses).all()
    encoder = Encoder.load(output, settings=FLOAT32)
    for one in ("encode_queries", "encode_passages"):
        vectors = getattr(encoder, one)(TEXTS)
        np.testing.assert_array_equal(vectors, getattr(trained, one)(TEXTS))
        # Vectors tell the texts apart.
        assert float((vectors @ vectors.T - np.eye(len(TEXTS))).max()) < 0.9999
    golden = read_golden(output)
    for name in ("llama2vec", "transformers", "sentence-transformers"):
        found = verify(output, golden, open_backend(name, output, golden, device="cpu"), device="cpu")
        assert found.passed, found.lines()
    return encoder


def rows(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    """What the model reads of passages."""
    return prompted_texts(encoder.backbone.tokenizer, texts, encoder.contract.ids, *encoder.reading("passage"))


@pytest.fixture
def save_with(make_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny Llama with a given tokenizer."""

    def save(tokenizer: Any, **changes: Any) -> Path:
        make_model("llama", **changes).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def test_without_eos_the_paper_s_slot_is_refused_and_new_slots_work(
    make_tokenizer: Callable[..., Any], save_with: Callable[..., Path], sentences: list[str], tmp_path: Path
) -> None:
    folder = save_with(make_tokenizer(eos=False))
    with pytest.raises(TokenizerError, match=r"no EOS token, which is the slot.*prompts=released"):
        adapt_model(recipe(folder, "paper"), tmp_path / "refused", passages=[Passage("a", text) for text in sentences])
    assert not (tmp_path / "refused").exists()
    encoder = adapted(folder, tmp_path / "out", sentences, "released")
    assert encoder.backbone.tokenizer.eos_token_id is None


def test_without_bos_and_eos_an_empty_text_is_still_read(
    make_tokenizer: Callable[..., Any], save_with: Callable[..., Path], sentences: list[str], tmp_path: Path
) -> None:
    folder = save_with(make_tokenizer(bos=False, eos=False))
    encoder = adapted(folder, tmp_path / "out", sentences, "released", "encoder.pooling=mean")
    assert rows(encoder, [""])[0]


@pytest.mark.parametrize("times", [1, 2])
def test_a_tokenizer_for_chats_begins_with_one_bos_and_the_encoder_does_not_chat(
    times: int, make_tokenizer: Callable[..., Any], save_with: Callable[..., Path], sentences: list[str], tmp_path: Path
) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    template = processors.TemplateProcessing(single=f"{'<s> ' * times}$A", special_tokens=[("<s>", 1)])
    tokenizer.backend_tokenizer.post_processor = template
    assert tokenizer("river")["input_ids"][:times] == [1] * times
    folder = save_with(tokenizer)
    encoder = adapted(folder, tmp_path / "out", sentences)
    assert all(row.count(1) == 1 and row[0] == 1 for row in rows(encoder, TEXTS))
    # sentence-transformers would wrap every text in a conversation.
    assert encoder.backbone.tokenizer.chat_template is None
    assert (folder / "chat_template.jinja").read_text() == CHAT


@pytest.mark.parametrize("llama_2", [False, True], ids=["first text", "every text"])
@pytest.mark.parametrize("prompts", ["paper", "paper-v2"])
def test_sentencepiece_s_space_before_a_text_is_the_one_of_the_contract(
    prompts: str,
    llama_2: bool,
    make_tokenizer: Callable[..., Any],
    save_with: Callable[..., Path],
    sentences: list[str],
    tmp_path: Path,
) -> None:
    folder = save_with(make_tokenizer(metaspace=True, llama_2=llama_2))
    encoder = adapted(folder, tmp_path / "out", sentences, prompts)
    tokenizer, contract = encoder.backbone.tokenizer, encoder.contract.to_dict()
    wording = contract["prompts"]["self_prompt"]
    texts = [text for text in TEXTS if text.strip() == text and text]
    # Text and wording are read one by one: the tokenizer's own space stands for the one that the wording begins with.
    for text, row in zip(texts, rows(encoder, texts), strict=True):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, wording.removeprefix(" "))]
        assert row == [1, *parts[0], *parts[1], 2]
        assert tokenizer.convert_ids_to_tokens(row[1]).startswith("▁")
        # A wording on the same line has the same ids where both are given as one text.
        if prompts == "paper-v2":
            assert tokenizer(input_as_text(contract, tokenizer, "passage", text))["input_ids"] == row


@pytest.mark.parametrize("prompts", ["paper", "released"])
def test_a_slow_tokenizer_is_adapted_with_targets_that_need_no_positions(
    prompts: str, save_with: Callable[..., Path], sentences: list[str], tmp_path: Path
) -> None:
    from transformers import CTRLTokenizer

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:\"'!?"
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *(f"{letter}@@" for letter in letters), *letters]
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n")
    slow = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), eos_token="</s>")
    folder = save_with(slow, vocabulary=150)
    with pytest.raises(TokenizerError, match=r"a slow tokenizer .*objective\.targets=words"):
        adapt_model(recipe(folder, prompts), tmp_path / "refused", passages=[Passage("a", text) for text in sentences])
    assert not (tmp_path / "refused").exists()
    encoder = adapted(folder, tmp_path / "out", sentences, prompts, "objective.targets=words")
    assert not encoder.backbone.tokenizer.is_fast
    text = encoder.backbone.tokenizer("castle", add_special_tokens=False)["input_ids"]
    ids = encoder.contract.ids
    assert rows(encoder, ["castle"]) == [[*ids.prefix, *text, *ids.suffixes["self"]]]


@pytest.mark.parametrize("prompts", ["paper", "released"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_embedding_table_with_spare_rows_and_its_head_stay_as_they_are(
    prompts: str, tied: bool, make_tokenizer: Callable[..., Any], save_with: Callable[..., Path],
    sentences: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    folder = save_with(make_tokenizer(), vocabulary=160, tie_word_embeddings=tied)
    encoder = adapted(folder, tmp_path / "out", sentences, prompts)
    # Sixteen new slots take spare rows.
    assert shapes(tmp_path / "out")["model.embed_tokens.weight"] == [160, 32]
    assert ("lm_head.weight" in shapes(tmp_path / "out")) is not tied
    assert encoder.backbone.model.config.tie_word_embeddings is tied
    model = encoder.backbone.model
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_embedding_table_that_others_resized_grows_for_new_slots(
    tied: bool, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path
) -> None:
    tokenizer, model = make_tokenizer(), make_model("llama", tie_word_embeddings=tied)
    tokenizer.add_tokens(["harbourmaster", "stonemason"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    assert shapes(tmp_path / "model")["model.embed_tokens.weight"] == [122, 32]
    encoder = adapted(tmp_path / "model", tmp_path / "out", sentences, "released")
    assert shapes(tmp_path / "out")["model.embed_tokens.weight"] == [138, 32]
    assert encoder.backbone.model.config.vocab_size == 138
    assert 120 in rows(encoder, ["the harbourmaster"])[0]


def test_a_tokenizer_larger_than_the_embedding_table_is_refused_and_no_output_begins(
    make_tokenizer: Callable[..., Any], save_with: Callable[..., Path], sentences: list[str], tmp_path: Path
) -> None:
    folder = save_with(make_tokenizer(), vocabulary=100)
    with pytest.raises(ModelError, match="ids up to 119, and the model has 100 embedding rows"):
        adapt_model(recipe(folder, "paper"), tmp_path / "out", passages=[Passage("a", text) for text in sentences])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_weights_in_shards_are_adapted_like_those_in_one_file(
    tied: bool, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path
) -> None:
    vectors = {}
    for name, size in (("whole", "1GB"), ("shards", "20KB")):
        make_model("llama", tie_word_embeddings=tied).save_pretrained(tmp_path / name, max_shard_size=size)
        make_tokenizer().save_pretrained(tmp_path / name)
        vectors[name] = adapted(tmp_path / name, tmp_path / f"{name}-out", sentences).encode_passages(TEXTS)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    np.testing.assert_array_equal(vectors["shards"], vectors["whole"])


def shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the weights in a folder."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            found.update({name: weights.get_slice(name).get_shape() for name in weights.keys()})  # noqa: SIM118 (no mapping)
    return found

"""Explanations: the words that two embeddings stand for add up to the word score, and sentences carry the cosine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import llama2vec.explain.explanation as explanation_module
from benchmarks.fidelity.architectures import save_tiny
from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings
from llama2vec.data.examples.unlabeled import sentences
from llama2vec.errors import ModelError
from llama2vec.explain.explanation import NEUTRAL_TEXTS, WORDS_PER_TEXT, Explainer, words_of_tokens
from llama2vec.model.backbone import Backbone, decoder
from llama2vec.model.encoder import Encoder
from llama2vec.model.prompt import prompted_texts
from llama2vec.model.source import ModelSource

FLOAT32 = ModelSettings(dtype="float32")
QUERY = "river stone"
PASSAGE = "The river runs under the bridge. The castle has a garden. A merchant sells pepper at the market."
WORDS = ("wing", "stall", "river", "the")
PIECES = ("ous", "ing", "Wing", "Ring")


def word_tokenizer(kind: str) -> Any:
    """A tokenizer with whole words, with and without a leading space, made by hand."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    space = "Ġ" if kind == "byte-level" else "▁"
    letters = [chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1))]
    more = [".", "4", "19", "Ã", "水"] if kind == "byte-level" else [".", "4", "19", "<0xC3>", "水"]
    vocabulary = ["<pad>", "<s>", "</s>", *letters, *more, space]
    merges: list[tuple[str, str]] = []

    def add(token: str) -> None:
        for end in range(2, len(token) + 1):
            if token[:end] not in vocabulary:
                vocabulary.append(token[:end])
                merges.append((token[: end - 1], token[end - 1]))

    for word in WORDS:
        add(space + word)
    for word in (*WORDS, *PIECES):
        add(word)
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(vocabulary)}, merges))
    if kind == "byte-level":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        strip = decoders.Strip(" ", 1, 0)
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
        tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )  # fmt: skip


@pytest.fixture(params=["byte-level", "sentencepiece"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_encoder(make_model: Callable[..., Any], tokenizer: Any, slots: int = 0, **settings: object) -> Encoder:
    model = make_model("llama", vocabulary=len(tokenizer))
    prompts = PromptSettings(recipe="custom", prefix="", self_prompt=" wing ", next_prompt=" river ", slots=slots)
    source = ModelSource("tiny", "tiny")
    return Encoder.from_backbone(Backbone(model, tokenizer, source), prompts, EncoderSettings.model_validate(settings))


def token_of(tokenizer: Any, kind: str, word: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(("Ġ" if kind == "byte-level" else "▁") + word))


def test_tokens_become_words_in_both_kinds_of_tokenizers(kind: str) -> None:
    tokenizer = word_tokenizer(kind)
    words = words_of_tokens(tokenizer, len(tokenizer), frozenset({"the"}))
    by_token = {tokenizer.convert_ids_to_tokens(token): word for token, word in words.items()}
    space = "Ġ" if kind == "byte-level" else "▁"
    folded = {space + "wing", "wing", "Wing"}
    assert {token for token, word in by_token.items() if word == "wing"} == folded
    assert by_token[space + "stall"] == by_token["stall"] == "stall"
    assert by_token["ous"] == "…ous"
    assert by_token["Ring"] == "ring"  # capitalized: the beginning of a word
    assert by_token["ing"] == "…ing"  # no word of its own
    assert by_token["19"] == "19"
    if kind == "sentencepiece":
        assert by_token["水"] == "水"
    left_out = {"<pad>", "<s>", "</s>", ".", "4", "a", "Q", space, space + "the", "the", "Ã", "<0xC3>"}
    assert not left_out & set(by_token)


def test_words_to_skip_are_the_same_in_every_unicode_form() -> None:
    tokenizer = word_tokenizer("byte-level")
    skip = frozenset({"ＷＩＮＧ"})
    words = set(words_of_tokens(tokenizer, len(tokenizer), skip).values())
    assert "stall" in words
    assert "wing" not in words


def test_rows_of_the_head_behind_the_tokenizer_are_no_words(kind: str) -> None:
    tokenizer = word_tokenizer(kind)
    assert words_of_tokens(tokenizer, len(tokenizer) + 50, frozenset()) == words_of_tokens(
        tokenizer, len(tokenizer), frozenset()
    )
    assert max(words_of_tokens(tokenizer, 60, frozenset())) < 60


@pytest.mark.parametrize("slots", [0, 3])
def test_the_word_that_the_head_is_made_to_say_wins(make_model: Callable[..., Any], kind: str, slots: int) -> None:
    tokenizer = word_tokenizer(kind)
    encoder = make_encoder(make_model, tokenizer, slots)

    def state(text: str) -> torch.Tensor:
        (row,) = prompted_texts(tokenizer, [text], encoder.contract.ids, "self", 512)
        with torch.no_grad():
            return decoder(encoder.backbone.model)(input_ids=torch.tensor([row])).last_hidden_state[0, -1]

    neutral = torch.stack([state(text) for text in NEUTRAL_TEXTS]).mean(dim=0)
    head = encoder.backbone.model.get_output_embeddings().weight
    with torch.no_grad():
        for word, text in (("river", "stall"), ("stall", "river")):  # each says the other's word
            head[token_of(tokenizer, kind, word)] = 50 * (state(text) - neutral)
    explainer = Explainer(encoder)
    assert next(iter(explainer.weights("stall", "passage"))) == "river"
    assert next(iter(explainer.weights("river", "passage"))) == "stall"


def test_weights_are_the_surplus_over_neutral_texts_by_hand(
    make_model: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = word_tokenizer(kind)
    encoder = make_encoder(make_model, tokenizer, slots=2, layers=2)
    neutral = ("wing", "the stall", "")
    monkeypatch.setattr(explanation_module, "NEUTRAL_TEXTS", neutral)
    monkeypatch.setitem(WORDS_PER_TEXT, "passage", 5)
    explainer = Explainer(encoder)

    def word_logits(text: str) -> np.ndarray[Any, Any]:
        (ids,) = prompted_texts(tokenizer, [text], encoder.contract.ids, "self", 512)
        with torch.no_grad():
            logits = encoder.backbone.model(torch.tensor([ids])).logits[0, -2:].amax(dim=0).numpy()
        named = words_of_tokens(tokenizer, len(logits), frozenset({"the"}))
        return np.array([max(logits[t] for t, word in named.items() if word == name) for name in explainer.words])

    background = np.mean([word_logits(text) for text in neutral], axis=0)
    for text in ("river wing", "stall", ""):
        weights = np.log1p(np.maximum(word_logits(text) - background, 0))
        kept = np.argsort(-weights)[:5]
        expected = {explainer.words[word]: weights[word] / np.linalg.norm(weights[kept]) for word in kept}
        found = explainer.weights(text, "passage")
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert found == pytest.approx({word: weight for word, weight in expected.items() if weight > 0}, abs=1e-4)


def test_each_side_is_read_with_its_own_prompt(make_model: Callable[..., Any]) -> None:
    two = Explainer(make_encoder(make_model, word_tokenizer("byte-level"), query_prompt="next"))
    assert two.weights("stall", "query") != pytest.approx(two.weights("stall", "passage"), abs=1e-2)
    one = Explainer(make_encoder(make_model, word_tokenizer("byte-level")))
    assert one.weights("stall", "query") == one.weights("stall", "passage")


def test_a_neutral_text_stands_for_nothing_and_stop_words_never_appear(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation_module, "NEUTRAL_TEXTS", ("wing",))
    encoder = make_encoder(make_model, word_tokenizer("byte-level"))
    assert Explainer(encoder).weights("wing", "passage") == {}
    assert "the" not in Explainer(encoder).words
    assert "the" in Explainer(encoder, language="de").words


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["mamba", "llama"])
def test_an_encoder_in_16_bits_is_explained(architecture: str, dtype: str, tmp_path: Path) -> None:
    # Mamba's last states are float32 and the weights of its head are not.
    folder = save_tiny(architecture, tmp_path)
    explainer = Explainer(Encoder.load(folder, settings=ModelSettings(dtype=dtype, device="cpu")))
    weights = list(explainer.explain(QUERY, PASSAGE).query_words)
    assert weights
    assert all(0 < word.weight <= 1 for word in weights)


def test_encoders_without_slots_or_head_are_refused_in_one_line(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any], llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"pooling=mean.*needs an encoder with pooling=slots"):
        Explainer(Encoder.load(llama_folder, encoder=EncoderSettings(pooling="mean")))
    make_model("llama").model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no output head \(lm_head\.weight\), which explain needs"):
        Explainer(Encoder.load(tmp_path))


@pytest.fixture(scope="module")
def explainer(llama_folder: Path) -> Explainer:
    return Explainer(Encoder.load(llama_folder, settings=FLOAT32))


def test_the_parts_add_up_to_both_scores(explainer: Explainer) -> None:
    found = explainer.explain(QUERY, PASSAGE, top=4)
    asked, matched = explainer.weights(QUERY, "query"), explainer.weights(PASSAGE, "passage")
    assert found.word_score == pytest.approx(sum(weight * matched.get(word, 0) for word, weight in asked.items()))
    assert found.word_score == pytest.approx(sum(word.contribution for word in found.shared))
    assert found.shared
    assert [word.contribution for word in found.shared] == sorted((w.contribution for w in found.shared), reverse=True)
    vectors = explainer.encoder.encode_queries(QUERY), explainer.encoder.encode_passages(PASSAGE)
    assert found.cosine == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert found.query_words == list(asked.items())[:4]
    assert found.passage_words == list(matched.items())[:4]
    assert found.evidence == []


def test_evidence_is_what_the_score_loses_without_the_sentence(explainer: Explainer) -> None:
    evidence = explainer.explain(QUERY, PASSAGE, evidence=True).evidence
    parts = sentences(PASSAGE)
    assert sorted(item.text for item in evidence) == sorted(parts)
    query = explainer.encoder.encode_queries(QUERY)
    for item in evidence:
        rest = " ".join(part for part in parts if part != item.text)
        with_it, without = (float(explainer.encoder.encode_passages(text) @ query) for text in (PASSAGE, rest))
        assert item.drop == pytest.approx(with_it - without, abs=1e-5)
    assert [item.drop for item in evidence] == sorted((item.drop for item in evidence), reverse=True)


def test_evidence_of_a_text_without_spaces_is_of_the_text_as_it_stands(explainer: Explainer) -> None:
    first, second, third = "羊驼哼鸣。", "它们吃草。", "草是绿的。"
    evidence = explainer.evidence(QUERY, first + second + third)
    query = explainer.encoder.encode_queries(QUERY)
    drops = {item.text: item.drop for item in evidence}
    assert set(drops) == {first, second, third}
    whole, rest = (
        float(explainer.encoder.encode_passages(text) @ query) for text in (first + second + third, first + third)
    )
    assert drops[second] == pytest.approx(whole - rest, abs=1e-5)


def test_a_sentence_beyond_the_limit_of_the_encoder_changes_nothing(llama_folder: Path) -> None:
    short = Explainer(Encoder.load(llama_folder, settings=FLOAT32, encoder=EncoderSettings(passage_max_tokens=8)))
    evidence = {item.text: item.drop for item in short.evidence(QUERY, PASSAGE)}
    assert evidence["A merchant sells pepper at the market."] == pytest.approx(0, abs=1e-5)
    assert np.abs(list(evidence.values())).max() > 1e-3


def test_one_sentence_has_no_evidence(explainer: Explainer) -> None:
    assert explainer.evidence(QUERY, "The river runs under the bridge.") == []
    assert explainer.evidence(QUERY, "") == []

"""The words that an embedding stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import llama2vec.explain.vocabulary as vocabulary_module
from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import ConfigError, ModelError
from llama2vec.explain.vocabulary import VocabularyView, words_of_tokens
from llama2vec.model.backbone import Backbone
from llama2vec.model.encoder import Encoder
from llama2vec.model.prompt import prompted_texts
from llama2vec.model.source import ModelSource

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
    view = VocabularyView(encoder)
    states = view._slot_states(["stall", "river"], "passage")
    neutral = view._slot_states(vocabulary_module.NEUTRAL_TEXTS, "passage")
    # One slot of each text, apart from all neutral states, is what its word's head row answers to.
    directions = states[:, -1] - neutral[:, -1].mean(dim=0)
    head = encoder.backbone.model.get_output_embeddings().weight
    with torch.no_grad():
        for word, direction in zip(("river", "stall"), directions, strict=True):  # each says the other's word
            head[token_of(tokenizer, kind, word)] = 50 * direction
    view = VocabularyView(encoder)
    first, second = view.top_words(["stall", "river"], "passage", 3)
    assert (first[0].word, second[0].word) == ("river", "stall")
    assert first[0].weight > first[1].weight


def test_weights_are_the_surplus_over_neutral_texts_by_hand(make_model: Callable[..., Any], kind: str) -> None:
    tokenizer = word_tokenizer(kind)
    encoder = make_encoder(make_model, tokenizer, slots=2, layers=2)
    neutral = ["wing", "the stall", ""]
    view = VocabularyView(encoder, neutral_texts=neutral)
    texts = ["river wing", "stall", ""]

    def word_logits(text: str) -> np.ndarray[Any, Any]:
        (ids,) = prompted_texts(tokenizer, [text], encoder.contract.ids, "self", 512)
        with torch.no_grad():
            logits = encoder.backbone.model(torch.tensor([ids])).logits[0, -2:].amax(dim=0).numpy()
        named = words_of_tokens(tokenizer, len(logits), frozenset({"the"}))
        return np.array([max(logits[t] for t, word in named.items() if word == name) for name in view.words])

    background = np.mean([word_logits(text) for text in neutral], axis=0)
    rows = view.sparse(texts, "passage", k=5)
    assert rows.shape == (3, len(view.words))
    for text, row in zip(texts, rows.toarray(), strict=True):
        weights = np.log1p(np.maximum(word_logits(text) - background, 0))
        kept = np.argsort(-weights)[:5]
        expected = np.zeros_like(weights)
        expected[kept] = weights[kept] / np.linalg.norm(weights[kept])
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_each_side_is_read_with_its_own_prompt(make_model: Callable[..., Any]) -> None:
    encoder = make_encoder(make_model, word_tokenizer("byte-level"), query_prompt="next")
    view = VocabularyView(encoder)
    query, passage = view.sparse(["stall"], "query"), view.sparse(["stall"], "passage")
    assert np.abs((query - passage).toarray()).max() > 1e-2
    same = VocabularyView(make_encoder(make_model, word_tokenizer("byte-level")))
    np.testing.assert_array_equal(
        same.sparse(["stall"], "query", 9).toarray(), same.sparse(["stall"], "passage", 9).toarray()
    )


def test_weights_do_not_change_with_what_is_read_beside(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = VocabularyView(make_encoder(make_model, word_tokenizer("byte-level")))
    texts = ["wing", "stall river the wing", "", "river river", "x y z"]
    together = view.sparse(texts, "passage").toarray()
    monkeypatch.setattr(vocabulary_module, "_LOGITS", 1)
    monkeypatch.setattr(vocabulary_module, "_TEXTS", 2)
    np.testing.assert_allclose(view.sparse(texts, "passage").toarray(), together, atol=1e-5)
    alone = np.concatenate([view.sparse([text], "passage").toarray() for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_a_vector_has_length_one_and_no_more_words_than_asked(make_model: Callable[..., Any]) -> None:
    view = VocabularyView(make_encoder(make_model, word_tokenizer("byte-level")))
    for k in (1, 3, 10_000):
        rows = view.sparse(["wing stall", "river"], "query", k)
        assert (np.diff(rows.indptr) <= k).all()
        assert (rows.data > 0).all()
        np.testing.assert_allclose(np.linalg.norm(rows.toarray(), axis=1), 1, atol=1e-5)
    top = view.top_words(["wing stall"], "query", 2)[0]
    heaviest = view.sparse(["wing stall"], "query").toarray()[0]
    assert [word.weight for word in top] == pytest.approx(sorted(heaviest, reverse=True)[:2])
    assert all(heaviest[view.words.index(word.word)] == pytest.approx(word.weight) for word in top)


def test_a_neutral_text_alone_stands_for_nothing(make_model: Callable[..., Any]) -> None:
    view = VocabularyView(make_encoder(make_model, word_tokenizer("byte-level")), neutral_texts=["wing"])
    empty, full = np.diff(view.sparse(["wing", "stall"], "passage").indptr)
    assert empty == 0 < full
    assert view.top_words(["wing"], "passage") == [[]]
    assert view.sparse([], "passage").shape == (0, len(view.words))
    assert view.top_words([], "passage") == []


def test_the_hash_names_what_decides_the_vectors(make_model: Callable[..., Any]) -> None:
    encoder = make_encoder(make_model, word_tokenizer("byte-level"))
    views = [
        VocabularyView(encoder),
        VocabularyView(encoder, language="de"),
        VocabularyView(encoder, neutral_texts=["wing"]),
        VocabularyView(make_encoder(make_model, word_tokenizer("byte-level"), query_prompt="next")),
    ]
    assert len({view.hash for view in views}) == 4
    assert VocabularyView(encoder).hash == views[0].hash
    assert views[0].contract_hash == encoder.contract_hash


def test_stop_words_never_appear(make_model: Callable[..., Any]) -> None:
    encoder = make_encoder(make_model, word_tokenizer("byte-level"))
    assert "the" not in VocabularyView(encoder).words
    assert "the" in VocabularyView(encoder, language="de").words


def test_memory_does_not_grow_with_texts_times_vocabulary(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = VocabularyView(make_encoder(make_model, word_tokenizer("byte-level")))
    most: list[int] = []
    head = view._head

    def measured(states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(states)
        most.append(logits.numel())
        return logits

    monkeypatch.setattr(view, "_head", type("Head", (), {"weight": head.weight, "__call__": staticmethod(measured)})())
    vocabulary = head.weight.shape[0]
    monkeypatch.setattr(vocabulary_module, "_LOGITS", 4 * vocabulary)
    view.sparse(["wing stall"] * 300, "passage", 8)
    assert max(most) == 4 * vocabulary  # 300 rows at once would be 75 times as many


def test_encoders_and_requests_that_do_not_fit_are_told_in_one_line(
    make_model: Callable[..., Any], llama_folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"pooling=mean.*need an encoder with pooling=slots"):
        VocabularyView(Encoder.load(llama_folder, encoder=EncoderSettings(pooling="mean")))
    encoder = make_encoder(make_model, word_tokenizer("byte-level"))
    with pytest.raises(ConfigError, match="at least one neutral text"):
        VocabularyView(encoder, neutral_texts=[])
    with pytest.raises(ConfigError, match="at least one word, not 0"):
        VocabularyView(encoder).sparse(["wing"], "query", 0)

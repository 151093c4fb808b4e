"""Which tokens an embedding must predict."""

from __future__ import annotations

import logging
import math
import unicodedata
from typing import Any

import pytest

from llama2vec.data.text.words import stop_words
from llama2vec.errors import TokenizerError
from llama2vec.pretext.targets import TargetTokenizer, inverse_document_frequency


def word_tokenizer(*words: str) -> Any:
    """Return a tokenizer whose tokens are these words, numbered from 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(("<unk>", *words))}
    plain = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")


def content_words(skip: frozenset[str], text: str) -> list[str]:
    """Return the words of a text that are targets, where each word is a token."""
    tokenizer = word_tokenizer(*text.split())
    (found,) = TargetTokenizer(tokenizer, 64, skip)([text])
    return list(tokenizer.convert_ids_to_tokens(list(found.targets)))


def test_targets_are_distinct_and_in_order_of_first_appearance(tokenizer: Any) -> None:
    (text,) = TargetTokenizer(tokenizer, 64, None)(["river stone river stone river"])
    assert text.targets == tuple(dict.fromkeys(text.ids))
    assert len(text.targets) < len(text.ids)


def test_stop_words_and_punctuation_are_left_out(tokenizer: Any) -> None:
    tokenize = TargetTokenizer(tokenizer, 64, frozenset({"the", "of"}))
    (text,) = tokenize(["The river, the stone of the bridge!"])
    (alone,) = TargetTokenizer(tokenizer, 64, None)([" river stone bridge"])
    # Every word stands behind a space here and there, so its tokens are the same; a bare space is no target.
    assert set(text.targets) == set(alone.targets) - {tokenizer.convert_tokens_to_ids("Ġ")}
    assert tokenizer.convert_tokens_to_ids(",") not in text.targets
    assert tokenizer.convert_tokens_to_ids("!") not in text.targets


def test_a_stop_word_inside_a_longer_word_still_counts(tokenizer: Any) -> None:
    (text,) = TargetTokenizer(tokenizer, 64, frozenset({"stone"}))(["stones stone"])
    (alone,) = TargetTokenizer(tokenizer, 64, None)(["stones"])
    assert text.targets == alone.targets


def test_stop_words_are_compared_in_lower_case(tokenizer: Any) -> None:
    (text,) = TargetTokenizer(tokenizer, 64, frozenset({"river"}))(["RIVER River river"])
    assert text.targets == ()


@pytest.mark.parametrize(
    ("language", "little", "content"),
    [
        ("de", "Für über", "größe"),
        ("fr", "Été même", "forêt"),
        ("vi", "Những của", "sông"),
        ("ru", "Всё мой", "йод"),
        ("hi", "काफ़ी", "किताब"),
    ],
)
def test_stop_words_are_the_same_in_every_unicode_form(language: str, little: str, content: str) -> None:
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, f"{little} {content}")
        assert content_words(stop_words(language), text) == [unicodedata.normalize(form, content)]


def test_stop_words_are_the_same_with_and_without_vowel_signs() -> None:
    # The list has "من" and "على" without signs, and "لَيْتَ" with them.
    assert content_words(stop_words("ar"), "مِنْ عَلَى لَيْتَ ليت الكِتَابُ") == ["الكِتَابُ"]


def test_an_accent_still_tells_words_apart() -> None:
    where = unicodedata.normalize("NFD", "où")
    assert content_words(frozenset({"ou"}), f"ou {where}") == [where]


def test_lower_case_of_stop_words_is_that_of_the_language(tokenizer: Any) -> None:
    texts = ["ILE ıle", "İLE ile"]
    for language, left in (("tr", [True, False]), ("en", [True, True])):
        found = TargetTokenizer(tokenizer, 64, frozenset({"ile"}), language=language)(texts)
        assert [bool(text.targets) for text in found] == left


def test_composed_words_are_compared_letter_by_letter() -> None:
    # What has another Unicode form for looks or case alone is no stop word by that.
    assert content_words(frozenset({"muss", "the"}), "MUSS muß the ｔｈｅ") == ["muß", "ｔｈｅ"]


def test_special_tokens_in_the_text_are_no_targets(tokenizer: Any) -> None:
    for skip in (None, frozenset({"the"})):
        (text,) = TargetTokenizer(tokenizer, 64, skip)(["river</s> stone<s>"])
        assert not set(text.targets) & set(tokenizer.all_special_ids)


def test_an_empty_text_and_one_of_stop_words_have_no_targets(tokenizer: Any) -> None:
    empty, only = TargetTokenizer(tokenizer, 64, frozenset({"the"}))(["", "The the, the."])
    assert (empty.ids, empty.targets) == ((), ())
    assert only.ids
    assert only.targets == ()


def test_texts_are_cut_and_targets_come_from_what_is_left(tokenizer: Any, sentences: list[str]) -> None:
    (text,) = TargetTokenizer(tokenizer, 5, None)([sentences[0]])
    assert len(text.ids) == 5
    assert set(text.targets) <= set(text.ids)


def test_letters_outside_ascii_are_words_too() -> None:
    tokenizer = word_tokenizer("größe", "и", "река", ".")
    (text,) = TargetTokenizer(tokenizer, 64, frozenset({"и"}))(["größe и река ."])
    assert text.targets == (1, 3)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(TokenizerError, match=r"a slow tokenizer .*objective\.targets=words"):
        TargetTokenizer(Slow(), 8, None)


def test_the_stop_words_of_a_language_are_lower_case_single_words() -> None:
    english = stop_words("en")
    assert {"the", "of", "and", "don"} <= english
    assert "river" not in english
    assert all(word == word.lower() and " " not in word and "'" not in word for word in english)
    assert "der" in stop_words("de")


def test_a_language_without_a_list_is_announced_and_skips_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert stop_words("xx") == frozenset()
    assert "xx" in caplog.text


def test_idf_falls_with_the_number_of_texts_and_is_never_negative() -> None:
    weights = inverse_document_frequency([[0, 1], [1, 2], [1]], 5)
    assert weights == pytest.approx([math.log(4 / 2), 0.0, math.log(4 / 2), math.log(4), math.log(4)])
    assert all(weight >= 0 for weight in weights)


def test_joined_words_are_the_targets_of_the_authors_code(tokenizer: Any) -> None:
    skip = frozenset({"the", "of"})
    text = "The (river), stone_bridge of the\nRiver"
    in_text, joined = (TargetTokenizer(tokenizer, 64, skip, joined=joined)([text])[0] for joined in (False, True))
    # Their code turns all that is neither letter nor digit into spaces, drops the stop words and tokenizes the rest.
    expected = tokenizer("river stone bridge River", add_special_tokens=False)["input_ids"]
    assert joined.targets == tuple(dict.fromkeys(expected))
    assert joined.ids == in_text.ids
    assert set(joined.targets) != set(in_text.targets)
    # Without stop words, they tokenize the text as it is.
    (plain,) = TargetTokenizer(tokenizer, 64, None, joined=True)([text])
    assert plain == TargetTokenizer(tokenizer, 64, None)([text])[0]


@pytest.mark.parametrize("skip", [None, frozenset({"the"})])
def test_joined_words_beyond_the_cut_of_the_text_are_targets_up_to_their_own_limit(
    tokenizer: Any, skip: frozenset[str] | None
) -> None:
    text = "river stone bridge harbour mountain valley"
    every = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(every) > 8
    (cut,) = TargetTokenizer(tokenizer, 4, skip, joined=True, max_joined=7)([f"{text} {text}"])
    assert cut.ids == tuple(every[:4])
    assert cut.targets == tuple(dict.fromkeys(every[:7]))
    (whole,) = TargetTokenizer(tokenizer, 4, skip, joined=True, max_joined=100)([f"{text} {text}"])
    assert set(every) <= set(whole.targets)
    # Without a limit of its own, that of the text.
    (same,) = TargetTokenizer(tokenizer, 4, skip, joined=True)([text])
    assert same.targets == tuple(dict.fromkeys(cut.ids))


@pytest.mark.parametrize("joined", [False, True])
def test_words_with_vowel_signs_are_targets_and_stop_words_whole(joined: bool) -> None:
    tokenizer = word_tokenizer("किताब", "नहीं", "है", "river")
    skip, text = stop_words("hi"), ["किताब नहीं है river"]
    (found,) = TargetTokenizer(tokenizer, 64, skip, joined=joined)(text)
    assert tokenizer.convert_ids_to_tokens(list(found.targets)) == ["किताब", "river"]

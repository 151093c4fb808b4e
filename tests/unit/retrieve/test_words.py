"""Texts → words."""

from __future__ import annotations

import unicodedata

import pytest

from llama2vec.errors import ConfigError
from llama2vec.retrieve.words import is_sign, new_tokenizer, split_normalized, split_words, word_spans

TEXT = "Ein Café für ＧＰＵ１２３ ﾃｽﾄ"


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_unicode_form_gives_the_same_words(form: str) -> None:
    text = unicodedata.normalize(form, TEXT)
    assert split_normalized(text) == ["ein", "café", "für", "gpu123", "テス", "スト"]


def test_signs_become_overlapping_pairs_and_other_words_stay_whole() -> None:
    assert split_words("GPU版本的 猫") == ["GPU", "版本", "本的", "猫"]
    assert word_spans("a 羊驼毛") == [(0, 1), (2, 4), (3, 5)]
    assert (is_sign("驼"), is_sign("a")) == (True, False)


@pytest.mark.parametrize("language", ["", "zz9", "english", "EN"])
def test_a_language_that_is_no_code_is_refused(language: str) -> None:
    with pytest.raises(ConfigError, match="language"):
        new_tokenizer(language)

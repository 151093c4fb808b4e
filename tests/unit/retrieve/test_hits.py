"""The part of a text that shows why it was found."""

from __future__ import annotations

import unicodedata

import pytest

from llama2vec.retrieve.hits import snippet


@pytest.mark.parametrize("width", [1, 2, 20, 60, 240])
@pytest.mark.parametrize("text", ["word " * 100, "x" * 500, "llama. " * 80, "字" * 300, "a llama " + "b " * 200])
def test_a_snippet_is_never_longer_than_asked(text: str, width: int) -> None:
    assert len(snippet(text, "llama word", width).rstrip("…")) <= width
    assert len(snippet(text, "llama", max(width, 3))) <= max(width, 3)


def test_a_snippet_of_a_script_without_spaces_is_cut_between_signs() -> None:
    text = "一 " + "骆驼在沙漠里行走。" * 20 + "羊驼在安第斯山脉背负重物。" + "骆驼在沙漠里行走。" * 20
    part = snippet(text, "安第斯的羊驼", 40)
    assert "羊驼在安第斯山脉" in part
    assert 38 <= len(part) <= 40


def test_a_snippet_prefers_different_words_to_repeated_ones() -> None:
    text = "llama llama llama " + "filler " * 60 + "The llama lives in Peru. " + "filler " * 60
    assert "llama lives in Peru" in snippet(text, "Where does the LLAMA live in peru?", 60)


def test_a_snippet_finds_words_in_another_unicode_form() -> None:
    text = unicodedata.normalize("NFD", "filler " * 60 + "Das Café am Fluß. " + "filler " * 60)
    assert "Café am Fluß" in snippet(text, "ＣＡＦÉ", 60)

"""Little words such as "the" and "ist": they do not show why a passage was found. The language is that of the text.

An index may hold several languages, and need not be told of any, so the language is the one whose little words the text
and the question have most of.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import cache
from typing import Any

from llama2vec.data.text.words import stop_words, word_key, word_pattern
from llama2vec.errors import MissingDependencyError

ENGLISH = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does", "for", "from",
    "had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its", "me", "my", "of", "on", "or", "our",
    "should", "so", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "to", "was", "we",
    "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with", "would", "you", "your",
])  # fmt: skip

_IN_BM25S = {
    "da": "DANISH", "de": "GERMAN", "es": "SPANISH", "fr": "FRENCH", "it": "ITALIAN", "nl": "DUTCH", "no": "NORWEGIAN",
    "pt": "PORTUGUESE", "ru": "RUSSIAN", "sv": "SWEDISH", "tr": "TURKISH",
}  # fmt: skip
_NOT_IN_BM25S = {
    "de": "wer wem wen wessen wann warum wieso weshalb wieviel wieviele gibt beim",
    "es": "cómo cuándo cuánto cuánta cuántos cuántas dónde cuál cuáles quién",
    "fr": "quel quelle quels quelles comment pourquoi combien où quand quoi si plus elles cela ça cette",
    "it": "quando quali qual cosa",
    "nl": "wanneer hoeveel waar welke waarom",
    "pt": "quanto quantos quantas onde quais porque",
    "ru": "это эта какие сколько почему который которая которые её",
    "tr": "kaç bir",
}
"""The words of questions, and a few more that its lists lack."""
_IN_STOPWORDS_ISO = (
    "af", "ar", "bg", "bn", "ca", "cs", "el", "eo", "et", "eu", "fa", "fi", "ga", "gl", "gu", "he", "hi", "hr", "hu",
    "hy", "id", "lt", "lv", "mr", "ms", "pl", "ro", "sk", "sl", "sw", "uk", "ur", "vi",
)  # fmt: skip
"""Longer lists, for languages that bm25s has none of."""

_READ_CHARACTERS = 4000
"""So much of a text and of a question tells their language."""
_CERTAIN, _DIFFERENT, _LEAST = 0.2, 5, 0.1
"""A text of which so large a share is little words of English, so many of them different, is English: "on" alone may be
Finnish. Where the little words of each language are less than the second share, the language is not known."""


def language_of(text: str, question: str) -> str:
    """Return the language of whose little words a text and a question have most; English where they have too few.

    >>> language_of("The rent is due on Monday.", "When is the rent due?")
    'en'
    """
    words = word_pattern().findall(word_key(f"{question[:_READ_CHARACTERS]}\n{text[:_READ_CHARACTERS]}"))
    in_english = [word for word in words if word in ENGLISH]
    english = len(in_english)
    if english >= _CERTAIN * len(words) and len(set(in_english)) >= _DIFFERENT:  # The other lists need not be loaded
        return "en"
    found = [(language, word) for word in words for language in _languages_by_word().get(word, ())]
    counts, different = (Counter(language for language, _ in pairs) for pairs in (found, set(found)))
    best = max(counts, key=lambda language: (counts[language], language in _IN_BM25S), default="en")
    is_clear = counts[best] > english and counts[best] >= _LEAST * len(words)
    return best if is_clear and different[best] > 1 else "en"  # One such word may be a name


def little_words(language: str) -> frozenset[str]:
    """Return the little words of a language of :func:`language_of`, as :func:`word_key` writes them."""
    return ENGLISH if language == "en" else _others()[language]


@cache
def _others() -> dict[str, frozenset[str]]:
    """Return the lists of the languages but English, as far as the packages with them are installed."""
    found: dict[str, frozenset[str]] = {}
    with suppress(ImportError):
        import bm25s.stopwords

        lists: Any = bm25s.stopwords
        for language, name in _IN_BM25S.items():
            text = " ".join([*getattr(lists, f"STOPWORDS_{name}", ()), _NOT_IN_BM25S.get(language, "")])
            found[language] = frozenset(word_pattern().findall(word_key(text)))
    with suppress(MissingDependencyError):
        for language in _IN_STOPWORDS_ISO:
            found[language] = frozenset(map(word_key, stop_words(language)))
    return found


@cache
def _languages_by_word() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for language, words in _others().items():
        for word in words:
            found.setdefault(word, []).append(language)
    return found

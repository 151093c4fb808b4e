"""Texts → words for BM25, in any language.

Words are runs of at least two letters or digits. Chinese, Japanese and Korean runs become overlapping pairs of
characters, as in Lucene's CJKAnalyzer, so that no dictionary is needed and a query matches wherever its pairs occur.
Words are stemmed where Snowball has a stemmer for the language; stop words are dropped where bm25s has a list of them.
Texts are normalized first (NFKC), so that composed and decomposed accents, and full-width letters, are the same.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from llama2vec.config import check_language
from llama2vec.errors import ConfigError, MissingDependencyError

_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
"""The stemmers that every PyStemmer since 2.0 has, so that an index reads the same on another machine."""

_WITH_STOP_WORDS = frozenset(["da", "de", "en", "es", "fr", "it", "nl", "no", "pt", "ru", "sv", "tr"])
SIGNS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese, Japanese and Korean characters, for use inside the brackets of a regular expression."""

_SIGN = re.compile(f"[{SIGNS}]")
_WORD = re.compile(r"\b\w\w+\b")
_RUN = re.compile(f"([{SIGNS}]+)|[^\\W{SIGNS}]+")


def split_words(text: str) -> list[str]:
    """Return the words of a text, unchanged.

    >>> split_words("the llama, a camelid")
    ['the', 'llama', 'camelid']
    >>> split_words("羊驼毛 gpu版本 猫")
    ['羊驼', '驼毛', 'gpu', '版本', '猫']
    """
    if not _SIGN.search(text):
        return _WORD.findall(text)
    return [text[begin:end] for begin, end in word_spans(text) if end - begin > 1 or is_sign(text[begin])]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where words begin and end, including those of one letter; pairs of characters overlap.

    >>> word_spans("a 羊驼毛")
    [(0, 1), (2, 4), (3, 5)]
    """
    spans: list[tuple[int, int]] = []
    for run in _RUN.finditer(text):
        begin, end = run.span()
        if run[1] and end - begin > 1:
            spans += [(place, place + 2) for place in range(begin, end - 1)]
        else:
            spans.append((begin, end))
    return spans


def is_sign(letter: str) -> bool:
    """Tell whether a letter is Chinese, Japanese or Korean."""
    return _SIGN.match(letter) is not None


def split_normalized(text: str) -> list[str]:
    """Return the words of a text in one Unicode form and in lower case.

    >>> split_normalized("Cafe\u0301 ＧＰＵ")
    ['café', 'gpu']
    """
    return split_words(unicodedata.normalize("NFKC", text).lower())


def new_tokenizer(language: str, *, normalized: bool = True) -> Any:
    """Return a tokenizer of bm25s with an empty vocabulary.

    Args:
        language: ISO 639 code.
        normalized: Bring texts to one Unicode form; False for indexes that were built without.

    Raises:
        ConfigError: The language is not an ISO 639 code.
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    try:
        check_language(language)
    except ValueError as error:
        raise ConfigError(f"language: {error}") from None
    try:
        import Stemmer
        from bm25s import tokenization
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed; run: pip install 'llama2vec[search]'") from error
    stemmer = Stemmer.Stemmer(_STEMMERS[language]) if language in _STEMMERS else None
    stop_words = language if language in _WITH_STOP_WORDS else None
    splitter = split_normalized if normalized else split_words
    return tokenization.Tokenizer(splitter=splitter, stopwords=stop_words, stemmer=stemmer)

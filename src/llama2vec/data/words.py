"""Words: which of them carry content, and when two texts consist of the same ones."""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path

from llama2vec.errors import ConfigError, MissingDependencyError
from llama2vec.files import file_sha256, read_text

logger = logging.getLogger(__name__)

WORD = re.compile(r"[^\W_]+")
"""A run of letters and digits."""
_KANA_AND_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
SIGNS = rf"{_KANA_AND_HAN}\uac00-\ud7af"
"""Chinese, Japanese and Korean characters, for use inside the brackets of a regular expression."""

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese and Khmer: about five letters a word
_SIGN = re.compile(f"[{_KANA_AND_HAN}]")
# Korean is written with spaces, so its signs do not count.
_COUNTED = re.compile(rf"(?:[{_KANA_AND_HAN}]|[{_UNSPACED}]{{1,5}})[^\w\s]*|[^\s{_KANA_AND_HAN}{_UNSPACED}]+")


def stop_words(language: str) -> frozenset[str]:
    """Return the stop words of an ISO 639-1 code from the maintained list stopwords-iso; empty if it has none."""
    try:
        import stopwordsiso
    except ImportError as error:
        raise MissingDependencyError("stop words need stopwordsiso; pip install 'llama2vec[train]'") from error
    if not stopwordsiso.has_lang(language):
        logger.warning("no stop-word list for language '%s': all words count", language)
        return frozenset()
    # The list holds contractions ("don't"); texts are compared word by word, as the authors' code does.
    return frozenset(part for word in stopwordsiso.stopwords(language) for part in WORD.findall(word.lower()))


_NLTK = Path(__file__).with_name("stop_words_nltk.txt")
STOP_WORD_LISTS = ("iso", "nltk", "none")
"""What may be named instead of a file of stop words."""


def chosen_stop_words(choice: str, language: str) -> frozenset[str] | None:
    """Return the stop words that a recipe chooses, as lower-case single words; None = every token counts.

    Args:
        choice: ``iso`` = stopwords-iso of the language, ``nltk`` = the English list of NLTK, ``none``, or a file with a
            word a line, in which ``#`` begins a comment.
        language: ISO 639-1 code, for ``iso``.

    Raises:
        ConfigError: The file cannot be read, or holds no word.
    """
    if choice == "none":
        return None
    if choice == "iso":
        return stop_words(language)
    path = _NLTK if choice == "nltk" else Path(choice)
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        lists = ", ".join(STOP_WORD_LISTS)
        raise ConfigError(
            f"text.stop_words: {choice} is neither one of {lists} nor a file of UTF-8 text with one word a line"
        ) from None
    words = frozenset(part for line in lines for part in WORD.findall(line.partition("#")[0].lower()))
    if not words:
        raise ConfigError(f"text.stop_words: {choice} holds no word; write one a line, or choose none")
    return words


def stop_words_identity(choice: str) -> str:
    """Return what identifies a choice of stop words: the name of a list, the hash of a file."""
    is_file = choice not in STOP_WORD_LISTS and Path(choice).is_file()
    return f"sha256:{file_sha256(Path(choice))}" if is_file else choice


def text_key(text: str) -> str:
    """Return what two texts share that differ only in case, white space, or Unicode form (composed, full-width).

    This is Unicode's NFKC case folding, with runs of white space as single spaces.

    >>> text_key(" The  Caf\\u0065\\u0301\\n") == text_key("the ｃafé")
    True
    """
    # The second NFKC: folding may take composed letters apart.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return (begin, end) of what counts as a word where texts are measured, punctuation included.

    That is what stands between white space. Of scripts that are written without spaces, each kana or Han sign counts,
    and every five letters of Thai, Lao, Burmese or Khmer.

    >>> word_spans("a llama 你好。")
    [(0, 1), (2, 7), (8, 9), (9, 11)]
    """
    return [found.span() for found in _COUNTED.finditer(text)]


def count_words(text: str) -> int:
    """Return the number of :func:`word_spans`."""
    return len(text.split() if text.isascii() else _COUNTED.findall(text))


def estimated_words(text: str) -> int:
    """Return about how many words a short text has; two kana or Han signs count as one, which is their usual length.

    >>> estimated_words("who won the race?"), estimated_words("谁赢得了比赛？")
    (4, 3)
    """
    return count_words(text) - len(_SIGN.findall(text)) // 2


def first_words(text: str, count: int) -> str:
    """Return the first words of a text as :func:`word_spans` counts them, with single spaces."""
    spans = word_spans(text)[:count]
    return " ".join(text[: spans[-1][1]].split()) if spans else ""


def sentence_spans(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Return (begin, end) of each sentence, the white space after it included; a blank line ends a sentence.

    >>> sentence_spans("Dr. Crane hums. It flies.")
    [(0, 16), (16, 25)]
    """
    try:
        import sentencex
    except ImportError as error:
        raise MissingDependencyError("splitting sentences needs sentencex; pip install 'llama2vec[model]'") from error
    return [(found["start_index"], found["end_index"]) for found in sentencex.get_sentence_boundaries(language, text)]

"""Words: which of them carry content, and when two texts consist of the same ones."""

from __future__ import annotations

import logging
import re
import unicodedata

from llama2vec.errors import MissingDependencyError

logger = logging.getLogger(__name__)

WORD = re.compile(r"[^\W_]+")
"""A run of letters and digits."""


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


def text_key(text: str) -> str:
    """Return what two texts share that differ only in case, white space, or Unicode form (composed, full-width).

    This is Unicode's NFKC case folding, with runs of white space as single spaces.

    >>> text_key(" The  Caf\\u0065\\u0301\\n") == text_key("the ｃafé")
    True
    """
    # The second NFKC: folding may take composed letters apart.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


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

"""Words without content, from a maintained list."""

from __future__ import annotations

import logging
import re

from llama2vec.errors import MissingDependencyError

logger = logging.getLogger(__name__)

WORD = re.compile(r"[^\W_]+")
"""A run of letters and digits."""


def stop_words(language: str) -> frozenset[str]:
    """Return the stop words of a language from the maintained list stopwords-iso; empty for languages without one.

    Args:
        language: ISO 639-1 code, such as ``en``.
    """
    try:
        import stopwordsiso
    except ImportError as error:
        raise MissingDependencyError("stop words need stopwordsiso; pip install 'llama2vec[train]'") from error
    if not stopwordsiso.has_lang(language):
        logger.warning("no stop-word list for language '%s': all words count", language)
        return frozenset()
    # The list holds contractions ("don't"); texts are compared word by word, as the authors' code does.
    return frozenset(part for word in stopwordsiso.stopwords(language) for part in WORD.findall(word.lower()))

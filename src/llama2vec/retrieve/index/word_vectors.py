"""BM25 as vectors: a number for each word, so that any engine with sparse vectors ranks as our BM25 does.

The inner product of a query's words with a passage's is the BM25 score. A word's number is a hash of it, so a query
needs no vocabulary; two words of a million share a number with a probability of 0.2 %, and then count as one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from llama2vec.engines.engine import WORD_SPACE
from llama2vec.records import Passage
from llama2vec.retrieve.index.lexical import Bm25Index, new_tokenizer


class WordVectors:
    """The word vectors of a corpus, in memory: 8 bytes for each distinct word of each passage."""

    def __init__(self, passages: Iterable[Passage], language: str) -> None:
        words, self._weights = Bm25Index.build(passages, language=language).weights()
        self._numbers = [word_number(word) for word in words]

    def of_row(self, row: int) -> dict[int, float]:
        """Return the BM25 weights of one passage's words by their numbers."""
        begin, end = self._weights.indptr[row : row + 2]
        found: dict[int, float] = {}
        columns, weights = self._weights.indices[begin:end].tolist(), self._weights.data[begin:end].tolist()
        for column, weight in zip(columns, weights, strict=True):
            number = self._numbers[column]
            found[number] = found.get(number, 0.0) + weight
        return found


def query_words(question: str, language: str) -> dict[int, float]:
    """Return how often each word occurs in a question, by the words' numbers.

    Args:
        question: Any text.
        language: ISO 639 code of the corpus, as given to ``export --language``.

    >>> query_words("Llamas and llama wool", "en") == {word_number("llama"): 2.0, word_number("wool"): 1.0}
    True
    """
    tokenizer = new_tokenizer(language)
    numbers = next(tokenizer.streaming_tokenize([question], update_vocab=True, allow_empty=False))
    words = {number: word for word, number in tokenizer.get_vocab_dict().items()}
    return {word_number(words[number]): float(count) for number, count in Counter(numbers).items()}


def word_number(word: str) -> int:
    """Return the number of a word, from 1 on; it is the same everywhere and always."""
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (WORD_SPACE - 1)

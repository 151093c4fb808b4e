"""Word vectors rank as BM25 does."""

from __future__ import annotations

import pytest

from llama2vec.engines.engine import WORD_SPACE
from llama2vec.records import Passage
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.index.word_vectors import WordVectors, query_words, word_number

PASSAGES = [
    Passage("a", "Llamas carry loads; a llama carries salt.", "Llama"),
    Passage("b", "Wool of alpacas"),
    Passage("c", "The and of"),
    Passage("d", "羊驼毛 and café"),
]


@pytest.mark.parametrize("question", ["llama salt", "llama llama wool", "羊驼", "cafe\u0301", "unheard", "the"])
def test_inner_products_are_the_scores_of_bm25(question: str) -> None:
    vectors, asked = WordVectors(PASSAGES, "en"), query_words(question, "en")
    found = [
        sum(weight * asked.get(number, 0.0) for number, weight in vectors.of_row(row).items())
        for row in range(len(PASSAGES))
    ]
    assert found == pytest.approx(Bm25Index.build(PASSAGES).scores(question).tolist(), abs=1e-6)


def test_a_corpus_without_words_has_empty_vectors() -> None:
    assert WordVectors([Passage("c", "The and of")], "en").of_row(0) == {}


def test_numbers_of_words_stay_the_same_everywhere() -> None:
    assert all(0 < word_number(str(n)) < WORD_SPACE for n in range(1000))
    assert word_number("llama") == 497_153_822

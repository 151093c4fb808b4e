"""Where candidates come from."""

from __future__ import annotations

import pytest

from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.mine.candidates import Bm25Searcher, passages_of_examples
from llama2vec.records import Passage, Query, TrainingExample


def test_bm25_scores_a_text_outside_the_corpus_as_it_would_inside(corpus: list[Passage]) -> None:
    searcher = Bm25Searcher(corpus)
    query = [Query("q", "about the llama and the river, the river")]
    asked = [7, corpus[7].text, 30, corpus[30].text]
    scores = next(iter(searcher.search(query, [asked], 5))).target_scores
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert scores[2] == pytest.approx(scores[3], rel=1e-5)
    assert scores[0] > scores[2] > 0


def test_without_a_corpus_the_distinct_passages_of_the_examples_are_one() -> None:
    rows = [
        TrainingExample("a", ("one", "two"), ("three",), positive_ids=("1", "2"), negative_ids=("3",)),
        TrainingExample("b", ("Three ", "one"), ("four",), positive_ids=("3", "1")),
        TrainingExample("c", ("four",), ("FOUR", "five")),
    ]
    passages = passages_of_examples(rows)
    assert [passage.text for passage in passages] == ["one", "two", "three", "four", "five"]
    assert [passage.id for passage in passages[:3]] == ["1", "2", "3"]
    assert passages[3].id.startswith("text:")
    with pytest.raises(DataError, match="'1' names two texts"):
        passages_of_examples([*rows, TrainingExample("d", ("other",), positive_ids=("1",))])
    with pytest.raises(EmptyCorpusError, match="no passages to mine from"):
        passages_of_examples([])

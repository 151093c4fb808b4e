"""A reranked run: which passages are scored again, and what follows them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.records import Passage, Query, Run
from llama2vec.score import reranking
from llama2vec.score.reranking import rerank

RUN = Run({"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"c": 0.5}, "q3": {}}, "first")
QUERIES = [Query("q2", "two"), Query("q1", "one"), Query("q3", "three"), Query("q4", "not asked")]
PASSAGES = [Passage("a", "aa"), Passage("b", "bbbb", "Title"), Passage("c", "c"), Passage("d", "never read")]


class LengthScorer:
    """Scores a passage by its length, and remembers what it read."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        self.read += [(query, text) for query, texts in zip(queries, passages, strict=True) for text in texts]
        return [[float(len(text)) for text in texts] for texts in passages]


@pytest.mark.parametrize("at_once", [1, 1000])
def test_the_best_are_in_the_order_of_the_scorer_and_the_others_follow(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "_PAIRS_AT_ONCE", at_once)
    scorer = LengthScorer()
    found = rerank(RUN, QUERIES, PASSAGES, scorer, depth=2, tag="new")
    assert found.tag == "new"
    assert found.ranking("q1") == [("b", 10.0), ("a", 2.0), ("c", 1.0)]
    assert found.ranking("q2") == [("c", 1.0)]
    assert found.results["q3"] == {}
    assert scorer.read == [("one", "aa"), ("one", "Title bbbb"), ("two", "c")]


def test_depth_decides_what_is_read() -> None:
    assert rerank(RUN, QUERIES, PASSAGES, LengthScorer(), depth=3, tag="n").ranking("q1")[-1] == ("c", 1.0)
    assert rerank(RUN, QUERIES, PASSAGES, LengthScorer(), depth=1, tag="n").ranking("q1") == [
        ("a", 2.0), ("b", 1.0), ("c", 0.0)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="depth is 0"):
        rerank(RUN, QUERIES, PASSAGES, LengthScorer(), depth=0, tag="n")


def test_texts_that_are_missing_are_named_before_any_pair_is_scored() -> None:
    scorer = LengthScorer()
    with pytest.raises(EvaluationError, match="the run has the query 'q1', and the queries do not"):
        rerank(RUN, QUERIES[:1], PASSAGES, scorer, tag="n")
    with pytest.raises(EvaluationError, match="the corpus lacks 1 of 3 passages of the run, such as 'c'"):
        rerank(RUN, QUERIES, PASSAGES[:2], scorer, tag="n")
    assert scorer.read == []

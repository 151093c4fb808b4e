"""One ranking from several."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.data.documents.windows import max_passage
from llama2vec.errors import ConfigError
from llama2vec.records import Query, Run
from llama2vec.retrieve.search.fusion import (
    Fusion,
    first_of_each,
    min_max_fusion,
    reciprocal_rank_fusion,
    search_documents,
)

FIRST = Run({"q": {"a": 9.0, "b": 5.0, "c": 1.0}})
SECOND = Run({"q": {"b": 0.9, "d": 0.2}})

PASSAGES = st.sampled_from("abcdefgh")
SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
RESULTS = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.dictionaries(PASSAGES, SCORES))
RUNS = st.lists(RESULTS.map(Run), min_size=1, max_size=4)


def test_reciprocal_ranks_by_hand() -> None:
    fused = reciprocal_rank_fusion([FIRST, SECOND])
    assert fused.results["q"] == {
        "b": math.fsum([1 / 62, 1 / 61]), "a": 1 / 61, "d": 1 / 62, "c": 1 / 63,
    }  # fmt: skip
    assert list(fused.results["q"]) == ["b", "a", "d", "c"]
    halved = reciprocal_rank_fusion([FIRST, SECOND], [1, 0.5]).results["q"]
    assert halved["b"] == math.fsum([1 / 62, 0.5 / 61])


def test_min_max_by_hand() -> None:
    # First: a 1, b 0.5, c 0, d counts as the lowest, 0; second: b 1, d 0, a and c as the lowest, 0.
    fused = min_max_fusion([FIRST, SECOND], [3, 1])
    assert fused.ranking("q") == [("a", 0.75), ("b", 0.625), ("c", 0.0), ("d", 0.0)]


def test_equal_scores_are_ordered_by_passage_id() -> None:
    runs = [Run({"q": {"b": 1.0, "a": 1.0}}), Run({"q": {"a": 7.0, "b": 7.0}})]
    assert list(reciprocal_rank_fusion(runs).results["q"]) == ["a", "b"]
    assert list(min_max_fusion(runs).results["q"].items()) == [("a", 1.0), ("b", 1.0)]


@pytest.mark.parametrize("tiny", [5e-324, 1e-200, 1e-160])
def test_differences_whose_squares_vanish_still_count(tiny: float) -> None:
    runs = [Run({"q": {"a": 0.0, "b": tiny}})]
    assert min_max_fusion(runs).results["q"] == pytest.approx({"b": 1.0, "a": 0.0})


def test_a_query_that_a_run_lacks_is_ranked_by_the_others() -> None:
    other = Run({"r": {"x": 2.0}, "empty": {}})
    for fuse in (reciprocal_rank_fusion, min_max_fusion):
        fused = fuse([FIRST, other])
        assert list(fused.results) == ["q", "r", "empty"]
        assert list(fused.results["q"]) == ["a", "b", "c"]
        assert list(fused.results["r"]) == ["x"]
        assert fused.results["empty"] == {}


def test_depth_cuts_after_fusing() -> None:
    assert list(reciprocal_rank_fusion([FIRST, SECOND], depth=1).results["q"]) == ["b"]
    assert list(min_max_fusion([FIRST, SECOND], depth=2).results["q"]) == ["b", "a"]


@settings(deadline=None, max_examples=80)
@given(RUNS, st.randoms(use_true_random=False), st.sampled_from(["rrf", "min-max"]))
def test_the_order_of_runs_and_of_their_entries_does_not_matter(runs: list[Run], draw: object, method: str) -> None:
    weights = [1.0 + place / 3 for place in range(len(runs))]

    def fuse(some: list[Run], shares: list[float]) -> Run:
        if method == "rrf":
            return reciprocal_rank_fusion(some, shares)
        return min_max_fusion(some, shares)

    def mixed(run: Run) -> Run:
        results = {}
        for query_id, scores in run.results.items():
            pairs = list(scores.items())
            draw.shuffle(pairs)  # type: ignore[attr-defined]
            results[query_id] = dict(pairs)
        return Run(results)

    order = list(range(len(runs)))
    draw.shuffle(order)  # type: ignore[attr-defined]
    expected = fuse(runs, weights)
    found = fuse([mixed(runs[place]) for place in order], [weights[place] for place in order])
    assert {query: list(scores.items()) for query, scores in found.results.items()} == {
        query: list(scores.items()) for query, scores in expected.results.items()
    }


@settings(deadline=None, max_examples=50)
@given(RUNS)
def test_every_passage_that_was_found_is_ranked_once_best_first(runs: list[Run]) -> None:
    for fused in (reciprocal_rank_fusion(runs), min_max_fusion(runs)):
        for query_id, scores in fused.results.items():
            assert set(scores) == {passage for run in runs for passage in run.results.get(query_id, {})}
            assert list(scores.items()) == fused.ranking(query_id)
            assert all(math.isfinite(score) for score in scores.values())


NEAR = {f"p{number:02d}": 1 - number / 100 for number in range(50)}
"""What the vectors find: p00 first."""


@pytest.mark.parametrize("place", ["p00", "p20", "p49", "unseen"])
def test_the_only_lexical_hit_ranks_first_wherever_the_vectors_rank_it(place: str) -> None:
    runs = [Run({"q": NEAR}), Run({"q": {place: 7.3}})]
    best = min_max_fusion(runs, lexical=[False, True]).ranking("q")
    assert best[0][0] == place
    assert best[0][1] > best[1][1]
    assert [name for name, _ in best[1:]] == [name for name in NEAR if name != place]


@pytest.mark.parametrize("weights", [None, [0.3, 0.7], [1e-3, 5.0]])
def test_no_score_is_above_1_where_both_ways_agree(weights: list[float] | None) -> None:
    runs = [Run({"q": NEAR, "r": NEAR}), Run({"q": {"p00": 7.3}, "r": {"p20": 1.0}})]
    fused = min_max_fusion(runs, weights, lexical=[False, True])
    assert fused.ranking("q")[0] == ("p00", 1.0)
    assert list(fused.results["q"]) == list(NEAR)
    assert max(fused.results["r"].values()) <= 1


def test_lexical_hits_with_equal_scores_are_ordered_by_the_vectors_and_stand_above_the_rest() -> None:
    hits = dict.fromkeys([f"p{number:02d}" for number in range(20, 45)], 2.0)
    fused = min_max_fusion([Run({"q": NEAR}), Run({"q": hits})], lexical=[False, True])
    assert list(fused.results["q"])[:25] == list(hits)


def test_the_weaker_of_two_lexical_hits_counts_by_its_score() -> None:
    fused = min_max_fusion([Run({"q": NEAR}), Run({"q": {"p48": 8.0, "p49": 6.0}})], lexical=[False, True]).results["q"]
    assert fused["p48"] == pytest.approx((1 / 49 + 1) / 2, rel=1e-5)
    assert fused["p49"] == pytest.approx(0.75 / 2, rel=1e-5)


def test_without_a_lexical_hit_the_vectors_decide_alone() -> None:
    fused = min_max_fusion([Run({"q": NEAR}), Run({"q": {}})], lexical=[False, True])
    assert list(fused.results["q"]) == list(NEAR)
    assert min_max_fusion([Run({"q": {}}), Run({"q": {}})], lexical=[False, True]).results == {"q": {}}


def test_ten_different_lexical_scores_are_scaled_as_measured() -> None:
    hits = {f"p{number:02d}": 10.0 - number for number in range(10)}
    runs = [Run({"q": NEAR}), Run({"q": hits})]
    assert min_max_fusion(runs, lexical=[False, True]).results == min_max_fusion(runs).results


def test_wrong_fusions_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown fusion 'average'; choose one of min-max, rrf"):
        Fusion("average")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown mode 'sparse' in the fusion weights; choose from dense, bm25"):
        Fusion(weights={"sparse": 1})
    with pytest.raises(ConfigError, match="not all 0"):
        Fusion(weights={"dense": 0, "bm25": 0})
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="at least 0"):
            Fusion(weights={"dense": weight})


class Windows:
    """All windows' scores of every query, searched by brute force; remembers how it was asked."""

    def __init__(self, scores: dict[str, dict[str, float]]) -> None:
        self.scores = scores
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def search(self, queries: Sequence[Query], depth: int) -> Run:
        self.asked.append((tuple(query.id for query in queries), depth))
        # Equal scores come in an order of their own, as rows of an index do.
        best = {
            query.id: dict(sorted(self.scores[query.id].items(), key=lambda pair: -pair[1])[:depth])
            for query in queries
        }
        return Run(best, "ours")


def queries(*names: str) -> list[Query]:
    return [Query(name, name) for name in names]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcdefgq"), st.integers(0, 9)), st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=40
    ),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 5),
)
def test_the_best_documents_are_those_of_a_search_through_all_windows(
    cells: dict[tuple[str, int], float], depth: int, exclude: bool, seed: int
) -> None:
    items = [(f"{document}#{number}", score) for (document, number), score in cells.items()]
    random.Random(seed).shuffle(items)
    windows = Windows({"q": dict(items)})
    found = search_documents(windows.search, queries("q"), depth=depth, excluded={"q"} if exclude else ())
    everything = [pair for pair in max_passage(Run(windows.scores)).ranking("q") if not (exclude and pair[0] == "q")]
    assert found.ranking("q") == everything[:depth]


def test_only_queries_that_lack_documents_are_asked_again_and_deeper() -> None:
    long = {f"long#{number}": 9.0 - number / 100 for number in range(30)}
    windows = Windows(
        {"hard": {**long, "a#0": 1.0, "b#0": 0.5}, "easy": {f"{name}#0": ord(name) for name in "abcdefgh"}, "none": {}}
    )
    found = search_documents(windows.search, queries("hard", "easy", "none"), depth=2)
    assert found.results == {"hard": {"long": 9.0, "a": 1.0}, "easy": {"h": 104, "g": 103}, "none": {}}
    assert (list(found.results), found.tag) == (["hard", "easy", "none"], "ours")
    assert windows.asked == [(("hard", "easy", "none"), 4), (("hard",), 8), (("hard",), 16), (("hard",), 32)]


def test_a_querys_own_passage_makes_room_for_the_next_one() -> None:
    run = Run({"q": {"q": 9.0, "a": 1.0, "b": 1.0}, "p": {"q": 2.0, "a": 1.0, "b": 0.5}}, "ours")
    assert first_of_each(run, 2, {"q", "p"}) == Run({"q": {"a": 1.0, "b": 1.0}, "p": {"q": 2.0, "a": 1.0}}, "ours")
    assert first_of_each(run, None, {"q"}).results["q"] == {"a": 1.0, "b": 1.0}
    assert first_of_each(run, None, {"p"}) == run


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.sampled_from([min_max_fusion, partial(min_max_fusion, lexical=[False, True]), reciprocal_rank_fusion]),
)
def test_a_deeper_search_only_adds_passages_after_those_of_a_shallow_one(
    seed: int, compared: int, fuse: Callable[..., Run]
) -> None:
    draw = random.Random(seed)
    names = [f"p{number:02d}" for number in range(30)]
    whole = []
    for _ in range(2):
        draw.shuffle(names)
        scores = sorted((draw.choice([0.5, 1.0, 2.0, 3.0, draw.random()]) for _ in names), reverse=True)
        whole.append(list(zip(names, scores, strict=True)))

    def searched(depth: int) -> list[tuple[str, float]]:
        runs = [Run({"q": dict(one[: max(depth, compared)])}) for one in whole]
        return fuse(runs, depth=depth, compared=compared).ranking("q")

    everything = searched(len(names))
    for depth in range(1, len(names)):
        assert searched(depth) == everything[:depth]

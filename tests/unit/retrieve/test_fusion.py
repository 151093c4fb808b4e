"""One ranking from several."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.errors import ConfigError
from llama2vec.records import Run
from llama2vec.retrieve.fusion import Fusion, reciprocal_rank_fusion, weighted_fusion

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
    halved = reciprocal_rank_fusion([FIRST, SECOND], weights=[1, 0.5], rank_constant=0)
    assert halved.ranking("q") == [("a", 1.0), ("b", 1.0), ("c", 1 / 3), ("d", 0.25)]


def test_min_max_by_hand() -> None:
    # First: a 1, b 0.5, c 0, d counts as the lowest, 0; second: b 1, d 0, a and c as the lowest, 0.
    fused = weighted_fusion([FIRST, SECOND], weights=[3, 1])
    assert fused.ranking("q") == [("a", 0.75), ("b", 0.625), ("c", 0.0), ("d", 0.0)]


def test_z_scores_by_hand() -> None:
    # First: mean 5, deviation sqrt(32 / 3): a +4, b 0, c -4 over it; second: mean 0.55, deviation 0.35: b 1, d -1.
    unit = 4 / math.sqrt(32 / 3)
    fused = weighted_fusion([FIRST, SECOND], scale="z-score").results["q"]
    expected = {"a": (unit - 1) / 2, "b": (0 + 1) / 2, "c": (-unit - 1) / 2, "d": (-unit - 1) / 2}
    assert fused == pytest.approx(expected)


def test_equal_scores_are_ordered_by_passage_id() -> None:
    runs = [Run({"q": {"b": 1.0, "a": 1.0}}), Run({"q": {"a": 7.0, "b": 7.0}})]
    assert list(reciprocal_rank_fusion(runs).results["q"]) == ["a", "b"]
    for scale, equal in (("min-max", 1.0), ("z-score", 0.0)):
        found = weighted_fusion(runs, scale=scale).results["q"]  # type: ignore[arg-type]
        assert list(found.items()) == [("a", equal), ("b", equal)]


@pytest.mark.parametrize("tiny", [5e-324, 1e-200, 1e-160])
def test_differences_whose_squares_vanish_still_count(tiny: float) -> None:
    runs = [Run({"q": {"a": 0.0, "b": tiny}})]
    assert weighted_fusion(runs, scale="z-score").results["q"] == pytest.approx({"b": 1.0, "a": -1.0})
    assert weighted_fusion(runs).results["q"] == pytest.approx({"b": 1.0, "a": 0.0})


def test_a_query_that_a_run_lacks_is_ranked_by_the_others() -> None:
    other = Run({"r": {"x": 2.0}, "empty": {}})
    for fuse in (reciprocal_rank_fusion, weighted_fusion):
        fused = fuse([FIRST, other])
        assert list(fused.results) == ["q", "r", "empty"]
        assert list(fused.results["q"]) == ["a", "b", "c"]
        assert list(fused.results["r"]) == ["x"]
        assert fused.results["empty"] == {}


def test_depth_cuts_after_fusing() -> None:
    assert list(reciprocal_rank_fusion([FIRST, SECOND], depth=1).results["q"]) == ["b"]
    assert list(weighted_fusion([FIRST, SECOND], depth=2).results["q"]) == ["b", "a"]


@settings(deadline=None, max_examples=80)
@given(RUNS, st.randoms(use_true_random=False), st.sampled_from(["rrf", "min-max", "z-score"]))
def test_the_order_of_runs_and_of_their_entries_does_not_matter(runs: list[Run], draw: object, method: str) -> None:
    weights = [1.0 + place / 3 for place in range(len(runs))]

    def fuse(some: list[Run], shares: list[float]) -> Run:
        if method == "rrf":
            return reciprocal_rank_fusion(some, weights=shares)
        return weighted_fusion(some, weights=shares, scale=method)  # type: ignore[arg-type]

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
    for fused in (reciprocal_rank_fusion(runs), weighted_fusion(runs), weighted_fusion(runs, scale="z-score")):
        for query_id, scores in fused.results.items():
            assert set(scores) == {passage for run in runs for passage in run.results.get(query_id, {})}
            assert list(scores.items()) == fused.ranking(query_id)
            assert all(math.isfinite(score) for score in scores.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": [1.0]}, "1 fusion weights for 2 runs"),
        ({"weights": [0.0, 0.0]}, "not all 0"),
        ({"weights": [1.0, -1.0]}, "at least 0"),
        ({"weights": [1.0, math.nan]}, "at least 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(arguments: dict[str, list[float]], words: str) -> None:
    for fuse in (reciprocal_rank_fusion, weighted_fusion):
        with pytest.raises(ConfigError, match=words):
            fuse([FIRST, SECOND], weights=arguments["weights"])


def test_other_wrong_requests_are_told_in_one_line() -> None:
    for fuse in (reciprocal_rank_fusion, weighted_fusion):
        with pytest.raises(ConfigError, match="no run to fuse"):
            fuse([])
    with pytest.raises(ConfigError, match="unknown scale 'rank'; choose one of min-max, z-score"):
        weighted_fusion([FIRST], scale="rank")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 0, not -1"):
        reciprocal_rank_fusion([FIRST], rank_constant=-1)


NEAR = {f"p{number:02d}": 1 - number / 100 for number in range(50)}
"""What the vectors find: p00 first."""


@pytest.mark.parametrize("scale", ["min-max", "z-score"])
@pytest.mark.parametrize("place", ["p00", "p20", "p49", "unseen"])
def test_the_only_lexical_hit_ranks_first_wherever_the_vectors_rank_it(scale: str, place: str) -> None:
    runs = [Run({"q": NEAR}), Run({"q": {place: 7.3}})]
    best = weighted_fusion(runs, lexical=[False, True], scale=scale).ranking("q")  # type: ignore[arg-type]
    assert best[0][0] == place
    assert best[0][1] > best[1][1]
    assert [name for name, _ in best[1:]] == [name for name in NEAR if name != place]


def test_lexical_hits_with_equal_scores_are_ordered_by_the_vectors_and_stand_above_the_rest() -> None:
    hits = dict.fromkeys([f"p{number:02d}" for number in range(20, 45)], 2.0)
    fused = weighted_fusion([Run({"q": NEAR}), Run({"q": hits})], lexical=[False, True])
    assert list(fused.results["q"])[:25] == list(hits)


def test_the_weaker_of_two_lexical_hits_counts_by_its_score() -> None:
    fused = weighted_fusion([Run({"q": NEAR}), Run({"q": {"p48": 8.0, "p49": 6.0}})], lexical=[False, True]).results[
        "q"
    ]
    assert fused["p48"] == pytest.approx((1 / 49 + 1) / 2, rel=1e-5)
    assert fused["p49"] == pytest.approx(0.75 / 2, rel=1e-5)


def test_without_a_lexical_hit_the_vectors_decide_alone() -> None:
    fused = weighted_fusion([Run({"q": NEAR}), Run({"q": {}})], lexical=[False, True])
    assert list(fused.results["q"]) == list(NEAR)
    assert weighted_fusion([Run({"q": {}}), Run({"q": {}})], lexical=[False, True]).results == {"q": {}}


def test_ten_different_lexical_scores_are_scaled_as_measured() -> None:
    hits = {f"p{number:02d}": 10.0 - number for number in range(10)}
    runs = [Run({"q": NEAR}), Run({"q": hits})]
    assert weighted_fusion(runs, lexical=[False, True]).results == weighted_fusion(runs).results


def test_wrong_fusions_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown fusion 'average'; choose one of rrf, min-max, z-score"):
        Fusion("average")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown mode 'sparse' in the fusion weights; choose from dense, bm25"):
        Fusion(weights={"sparse": 1})
    with pytest.raises(ConfigError, match="every mode has the weight 0"):
        Fusion(weights={"dense": 0, "bm25": 0}).shares()

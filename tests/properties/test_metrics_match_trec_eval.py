"""evaluate_run against pytrec_eval called directly, and against the definitions written out by hand."""

import math

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.records import Run
from llama2vec.score.metrics import evaluate_run

QUERIES = [f"q{n}" for n in range(5)]
PASSAGES = [f"d{n}" for n in range(25)]
# Few distinct scores, so that ties abound; one pair that single precision cannot tell apart.
SCORES = st.sampled_from([0.0, -1.0, 0.5, 0.5 + 1e-12, 2.0])
RESULTS = st.dictionaries(
    st.sampled_from([*QUERIES, "unjudged"]), st.dictionaries(st.sampled_from(PASSAGES), SCORES), max_size=6
)
QRELS = st.dictionaries(
    st.sampled_from(QUERIES),
    st.dictionaries(st.sampled_from(PASSAGES), st.integers(-3, 4), min_size=1, max_size=20),
    min_size=1,
)


def ndcg(ranking: list[str], gains: dict[str, int], depth: int) -> float:
    """Linear gains over log2(rank + 1), as trec_eval's ndcg_cut; gains below 0 count as 0."""
    ideal = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:depth]
    best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ideal, start=1))
    found = (max(gains.get(passage, 0), 0) / math.log2(rank + 1) for rank, passage in enumerate(ranking[:depth], 1))
    return sum(found) / best if best else 0.0


def reciprocal_rank(ranking: list[str], gains: dict[str, int], depth: int) -> float:
    return next((1 / rank for rank, passage in enumerate(ranking[:depth], 1) if gains.get(passage, 0) >= 1), 0.0)


def recall(ranking: list[str], gains: dict[str, int], depth: int) -> float:
    relevant = {passage for passage, gain in gains.items() if gain >= 1}
    return len(relevant & set(ranking[:depth])) / len(relevant) if relevant else 0.0


@settings(max_examples=80, deadline=None)
@given(RESULTS, QRELS)
def test_every_value_equals_the_definition(
    results: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]
) -> None:
    query = next(iter(qrels))
    run = Run({query: {"d0": 1.0}, **results})
    report = evaluate_run(run, qrels, metrics=["nDCG@3", "nDCG@10", "MRR@3", "RR@10", "R@5"])
    by_hand = {"nDCG@3": (ndcg, 3), "nDCG@10": (ndcg, 10), "MRR@3": (reciprocal_rank, 3)}
    by_hand |= {"RR@10": (reciprocal_rank, 10), "R@5": (recall, 5)}
    for measure, (definition, depth) in by_hand.items():
        expected = {}
        for query_id, gains in qrels.items():
            ranking = [passage for passage, _ in run.ranking(query_id)] if query_id in run.results else []
            expected[query_id] = definition(ranking, gains, depth)
        assert report.per_query[measure] == pytest.approx(expected, abs=1e-9)
        assert report.metrics[measure] == pytest.approx(sum(expected.values()) / len(expected), abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(RESULTS, QRELS)
def test_runs_without_ties_score_as_pytrec_eval_does(
    results: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]
) -> None:
    # Distinct single-precision scores: trec_eval's order is then ours.
    untied = {
        query: {passage: float(rank) for rank, passage in enumerate(scores)}
        for query, scores in results.items()
        if scores
    }
    untied.setdefault(next(iter(qrels)), {"d0": 1.0})
    # trec_eval reads outside its arrays on negative gains, which both sides therefore count as 0.
    clipped = {query: {passage: max(gain, 0) for passage, gain in gains.items()} for query, gains in qrels.items()}
    report = evaluate_run(Run(untied), qrels, metrics=["nDCG@10", "R@100", "RR", "AP", "AP(rel=2)", "R(rel=2)@1000"])
    names = {"nDCG@10": "ndcg_cut_10", "R@100": "recall_100", "RR": "recip_rank", "AP": "map"}
    # TREC DL takes passages from grade 2 on as relevant.
    from_grade_two = {"AP(rel=2)": "map", "R(rel=2)@1000": "recall_1000"}
    for level, measures in ((1, names), (2, from_grade_two)):
        wanted = {"ndcg_cut.10", "recall.100,1000", "recip_rank", "map"}
        direct = pytrec_eval.RelevanceEvaluator(clipped, wanted, relevance_level=level).evaluate(untied)
        for measure, name in measures.items():
            assert report.per_query[measure] == {query: direct.get(query, {}).get(name, 0.0) for query in qrels}


@settings(max_examples=20, deadline=None)
@given(RESULTS, QRELS)
def test_the_order_in_which_results_are_given_changes_nothing(
    results: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]
) -> None:
    results.setdefault(next(iter(qrels)), {"d0": 1.0})
    backwards = {query: dict(reversed(scores.items())) for query, scores in reversed(results.items())}
    turned = {query: dict(reversed(gains.items())) for query, gains in reversed(qrels.items())}
    assert evaluate_run(Run(results), qrels) == evaluate_run(Run(backwards), turned)

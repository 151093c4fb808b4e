"""Counts of one mining."""

from __future__ import annotations

from llama2vec.mine.report import MiningReport, rank_distribution


def test_ranks_are_summed_up_by_span() -> None:
    found = rank_distribution([300, 1, 7, 1, 15])
    assert (found["lowest"], found["median"], found["highest"]) == (1, 7, 300)
    assert found["spans"] == {"1": 2, "2-10": 1, "11-20": 1, "201-500": 1}


def test_a_removed_candidate_counts_once_per_reason_query_and_passage_and_long_texts_are_cut() -> None:
    report = MiningReport(most_examples=1)
    for query in range(2):
        report.queries += 1
        for passage in ("a", "b"):
            report.remove("empty", f"query {query}", passage, "x" * 500, {"positive": "y" * 500})
    found = report.to_dict()["removed"]["empty"]
    assert (found["candidates"], found["queries"], found["passages"]) == (4, 2, 2)
    assert len(found["examples"]) == 1
    assert found["examples"][0]["passage"] == "x" * 239 + "…"
    assert found["examples"][0]["positive"] == "y" * 239 + "…"
    assert "(2 passages, 2 queries)" in report.summary()


def test_chosen_negatives_are_counted_by_searcher_and_rank() -> None:
    report = MiningReport()
    report.choose({"model": 3, "bm25": 1})
    report.choose({"model": 8})
    found = report.to_dict()
    assert (report.mined, found["found_by"]) == (2, {"bm25 and model": 1, "model": 1})
    assert found["ranks"]["model"]["median"] == 3

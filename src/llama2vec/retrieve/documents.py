"""Documents found by their windows: search deeper until there are enough documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama2vec.data.windows import max_passage
from llama2vec.records import Query, Run

WindowSearch = Callable[[Sequence[Query], int], Run]
"""Queries and a depth → the run of their best windows; shorter than the depth only at the end of the index."""


def search_documents(
    search_windows: WindowSearch, queries: Sequence[Query], *, depth: int, exclude_same_id: bool = False
) -> Run:
    """Return each query's best documents; a document scores as its best window (MaxP).

    A query is searched again, twice as deep, until ``depth`` documents score above the last window that was found, or
    the index ends. Windows below the last one can change neither those documents nor the order of equal scores.

    Args:
        search_windows: Asked for the queries that still lack documents.
        queries: The queries.
        depth: Documents per query.
        exclude_same_id: Skip the document that has its query's id.
    """
    found: dict[str, dict[str, float]] = {}
    wanted = depth + exclude_same_id
    reach, open_queries, tag = 2 * wanted, list(queries), ""
    while open_queries:
        windows = search_windows(open_queries, reach)
        documents, tag = max_passage(windows), windows.tag
        deeper = []
        for query in open_queries:
            scores = windows.results.get(query.id, {})
            lowest = min(scores.values(), default=0.0)
            settled = sum(score > lowest for score in documents.results.get(query.id, {}).values())
            if len(scores) >= reach and settled < wanted:
                deeper.append(query)
            else:
                ranking = documents.ranking(query.id) if scores else []
                kept = [(name, score) for name, score in ranking if not (exclude_same_id and name == query.id)]
                found[query.id] = dict(kept[:depth])
        open_queries, reach = deeper, 2 * reach
    return Run({query.id: found[query.id] for query in queries}, **({"tag": tag} if tag else {}))


def without_own(run: Run, depth: int) -> Run:
    """Return the run without passages that have their query's id, ``depth`` passages per query.

    >>> without_own(Run({"q": {"q": 9.0, "a": 1.0, "b": 2.0}}), 1).results
    {'q': {'b': 2.0}}
    """
    results = {
        query_id: dict([(name, score) for name, score in run.ranking(query_id) if name != query_id][:depth])
        for query_id in run.results
    }
    return Run(results, run.tag)

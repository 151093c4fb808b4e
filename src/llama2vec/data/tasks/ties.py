"""Passages with equal scores: their order, and scores that trec_eval keeps apart.

trec_eval holds scores in single precision and ranks equal ones by descending id. The order here is the one that a user
saw: by the exact scores, then by ascending id (:meth:`llama2vec.records.Run.ranking`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.data.settings import Ties
from llama2vec.records import Run


def kept_apart(run: Run, ties: Ties = "id") -> Run:
    """Return a run whose order is the same here and in trec_eval, because its scores fall in single precision, too.

    A score that ties with the one above it, or lies above it after such a change, becomes the next smaller number of
    single precision; all other scores stay as they are.

    >>> run = Run({"q": {"a": 0.5, "b": 0.5, "c": 0.25}})
    >>> kept_apart(run).results["q"]
    {'a': 0.5, 'b': 0.4999999701976776, 'c': 0.25}
    >>> list(kept_apart(run, "trec_eval").results["q"])
    ['b', 'a', 'c']
    """
    return Run({query_id: _kept_apart(_ranked(run, query_id, ties)) for query_id in run.results}, run.tag)


def orders_differ(run: Run) -> bool:
    """Tell whether trec_eval ranks the passages of a query otherwise than :meth:`Run.ranking` does."""
    return any(_ranked(run, query_id, "trec_eval") != run.ranking(query_id) for query_id in run.results)


def tied_queries(run: Run, queries: Iterable[str], ties: Ties, cutoff: int = 0) -> int:
    """Count the queries for which the order of equal scores can change what the first ``cutoff`` passages are.

    >>> run = Run({"q": {"a": 3.0, "b": 2.0, "c": 2.0}})
    >>> [tied_queries(run, ["q"], "id", cutoff) for cutoff in (1, 2, 0)]
    [0, 1, 1]

    Args:
        run: What a system returned.
        queries: Those that count.
        ties: What counts as equal: in single precision (``trec_eval``), or exactly.
        cutoff: The rank to which a metric reads; 0 = the end.
    """
    return sum(_ties_above(run.results.get(query_id, {}), ties, cutoff) for query_id in queries)


def _ties_above(scores: Mapping[str, float], ties: Ties, cutoff: int) -> bool:
    numbers = -np.sort(-_numbers(scores.values(), np.float32 if ties == "trec_eval" else np.float64))
    return bool((numbers[1:] == numbers[:-1])[: cutoff or None].any())


def _numbers(scores: Iterable[float], dtype: type[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    # A score beyond single precision becomes infinite, as in trec_eval.
    with np.errstate(over="ignore"):
        return np.fromiter(scores, dtype=np.float64).astype(dtype)


def _ranked(run: Run, query_id: str, ties: Ties) -> list[tuple[str, float]]:
    if ties == "id":
        return run.ranking(query_id)
    scores = run.results[query_id]
    single = dict(zip(scores, _numbers(scores.values(), np.float32).tolist(), strict=True))
    return sorted(scores.items(), key=lambda pair: (single[pair[0]], pair[0]), reverse=True)


def _kept_apart(ranking: list[tuple[str, float]]) -> dict[str, float]:
    single = _numbers((score for _, score in ranking), np.float32)
    if (single[1:] < single[:-1]).all():
        return dict(ranking)
    found: dict[str, float] = {}
    above = np.float32(np.inf)
    for place, ((passage_id, score), rounded) in enumerate(zip(ranking, single, strict=True)):
        falls = not place or rounded < above
        above = rounded if falls else np.nextafter(above, np.float32(-np.inf))
        found[passage_id] = score if falls else float(above)
    return found

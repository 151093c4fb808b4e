"""Rerank a run: a model that reads query and passage together scores the best passages again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llama2vec.data.tasks.ties import kept_apart
from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.kept import Scorer
from llama2vec.records import Passage, Query, Run
from llama2vec.terminal import ProgressReporter, counted

_PAIRS_AT_ONCE = 512


def rerank(
    run: Run, queries: Sequence[Query], passages: Iterable[Passage], scorer: Scorer, *, depth: int = 100, tag: str
) -> Run:
    """Return a run whose best ``depth`` passages per query are in the order of the scorer's scores.

    The passages below them keep their order and follow with scores that count down by one, so that measures of the
    whole depth, such as R@1000, stay what they were. No two scores are equal, not in single precision either.

    Args:
        run: The run to rerank.
        queries: The texts of its queries, and possibly others.
        passages: The corpus that was searched; only the texts that are needed are kept.
        scorer: Scores a title and text as one.
        depth: Passages per query to score again.
        tag: Name of the new run.

    Raises:
        ConfigError: ``depth`` is below 1.
        EvaluationError: A query or passage of the run has no text.
    """
    if depth < 1:
        raise ConfigError(f"depth is {depth}; rerank at least one passage a query")
    text_of = {query.id: query.text for query in queries}
    if lost := next((query_id for query_id in run.results if query_id not in text_of), None):
        raise EvaluationError(f"the run has the query {lost!r}, and the queries do not; give those that were searched")
    rankings = {query_id: run.ranking(query_id) for query_id in run.results}
    wanted = {name for ranking in rankings.values() for name, _ in ranking[:depth]}
    texts = {passage.id: passage.full_text for passage in passages if passage.id in wanted}
    if missing := sorted(wanted - texts.keys()):
        raise EvaluationError(
            f"the corpus lacks {len(missing):,} of {counted(len(wanted), 'passage')} of the run, such as "
            f"{missing[0]!r}; give the corpus or the index that was searched"
        )
    results: dict[str, Mapping[str, float]] = {}
    size = max(1, _PAIRS_AT_ONCE // depth)
    ids = list(rankings)
    with ProgressReporter("reranking", "query", "queries") as progress:
        progress.start(len(ids))
        for begin in range(0, len(ids), size):
            batch = ids[begin : begin + size]
            asked = [[texts[name] for name, _ in rankings[query_id][:depth]] for query_id in batch]
            found = scorer.scores([text_of[query_id] for query_id in batch], asked)
            for query_id, scores in zip(batch, found, strict=True):
                results[query_id] = _reordered(rankings[query_id], [float(score) for score in scores])
            progress.advance(len(batch))
    return kept_apart(Run(results, tag))


def _reordered(ranking: Sequence[tuple[str, float]], scores: Sequence[float]) -> dict[str, float]:
    """Give the first passages their new scores, and the others scores below them.

    >>> _reordered([("a", 9.0), ("b", 8.0), ("c", 7.0), ("d", 6.0)], [0.25, 0.5])
    {'a': 0.25, 'b': 0.5, 'c': -0.75, 'd': -1.75}
    """
    lowest = min(scores, default=0.0)
    found = {name: score for (name, _), score in zip(ranking, scores, strict=False)}
    rest = ranking[len(scores) :]
    return found | {name: lowest - place for place, (name, _) in enumerate(rest, start=1)}

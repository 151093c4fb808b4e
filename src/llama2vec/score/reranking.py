"""Rerank a run: a model that reads query and passage together scores the best passages again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Protocol

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.files import disk_errors, write_atomic
from llama2vec.manifest import digest
from llama2vec.records import Passage, Query, Run
from llama2vec.terminal import ProgressReporter, counted

logger = logging.getLogger(__name__)

_PAIRS_AT_ONCE = 512
_MARK = ".scores-"


class Scorer(Protocol):
    """A model that scores pairs of a query and a passage."""

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> Sequence[Iterable[float]]:
        """Return, for each query, the scores of its own passages."""


def rerank(
    run: Run, queries: Sequence[Query], passages: Iterable[Passage], scorer: Scorer, *, depth: int = 100, tag: str,
    kept_in: Path | None = None,
) -> Run:  # fmt: skip
    """Return a run whose best ``depth`` passages per query are in the order of the scorer's scores.

    The passages below them keep their order and follow with scores that count down by one, so that measures of the
    whole depth, such as R@1000, stay what they were.

    Args:
        run: The run to rerank.
        queries: The texts of its queries, and possibly others.
        passages: The corpus that was searched; only the texts that are needed are kept.
        scorer: Scores a title and text as one.
        depth: Passages per query to score again.
        tag: Name of the new run.
        kept_in: File for the scores so far (:func:`kept_scores`); a call with the same texts resumes from it after a
            kill, and gives the same run. None = in memory alone.

    Raises:
        ConfigError: ``depth`` is below 1.
        DataError: ``kept_in`` cannot be written.
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
    ids, kept = list(rankings), _KeptScores(kept_in)
    with ProgressReporter("reranking", "queries") as progress:
        progress.start(len(ids))
        for begin in range(0, len(ids), size):
            batch = ids[begin : begin + size]
            asked = [[texts[name] for name, _ in rankings[query_id][:depth]] for query_id in batch]
            found = kept.scores(scorer, [text_of[query_id] for query_id in batch], asked)
            for query_id, scores in zip(batch, found, strict=True):
                results[query_id] = _reordered(rankings[query_id], scores)
            progress.advance(len(batch))
    return Run(results, tag)


def kept_scores(output: Path, scorer: object) -> Path:
    """Return the file beside an output that keeps scores until it is written; ``scorer`` = JSON data that names it."""
    return output.with_name(f"{output.name}{_MARK}{digest(scorer)[:12]}")


def discard_scores(output: Path) -> None:
    """Remove what any scorer kept for an output."""
    for left in output.parent.glob(f"{escape(output.name)}{_MARK}*"):
        left.unlink(missing_ok=True)


class _KeptScores:
    """Scores in a file: a line per batch, with a hash of its texts, since a model's last bits depend on the batch."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[list[float]]] = {}
        whole = list[bytes]()
        for line in path.read_bytes().split(b"\n") if path and path.is_file() else ():
            with suppress(ValueError):  # a kill cut it short
                key, scores = json.loads(line)
                self._known[key] = scores
                whole.append(line + b"\n")
        if path and whole:
            with disk_errors(path):
                write_atomic(path, whole)
            logger.info("resuming from the scores in %s", path)

    def scores(self, scorer: Scorer, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return what the scorer says of a batch; what the file has is not asked again."""
        key = digest([queries, passages]) if self._path else ""
        if (found := self._known.get(key)) is None:
            found = [[float(score) for score in scores] for scores in scorer.scores(queries, passages)]
            if self._path:
                with disk_errors(self._path):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    with self._path.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps([key, found]) + "\n")
        return found


def _reordered(ranking: Sequence[tuple[str, float]], scores: Sequence[float]) -> dict[str, float]:
    """Give the first passages their new scores, and the others scores below them.

    >>> _reordered([("a", 9.0), ("b", 8.0), ("c", 7.0), ("d", 6.0)], [0.25, 0.5])
    {'a': 0.25, 'b': 0.5, 'c': -0.75, 'd': -1.75}
    """
    lowest = min(scores, default=0.0)
    found = {name: score for (name, _), score in zip(ranking, scores, strict=False)}
    rest = ranking[len(scores) :]
    return found | {name: lowest - place for place, (name, _) in enumerate(rest, start=1)}

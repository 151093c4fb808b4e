"""A teacher judges what is to become a negative, and its scores are written beside the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llama2vec.kept import Scorer
from llama2vec.mine.filters import Filters, Undecided, share_of


def judge(queries: Sequence[Undecided], filters: Filters, teacher: Scorer, share: float) -> None:
    """Take the candidates of each query that the teacher scores low enough, in their order, until it has enough.

    Only positives, kept negatives and candidates whose turn has come are scored, so a teacher reads little more than
    what is written.

    Args:
        queries: Each gets its negatives, with the teacher's scores.
        filters: Where the candidates come from.
        teacher: Scores the pairs.
        share: Highest score of a negative, as a share of the query's lowest-scored positive; 0 = no bound.
    """
    known = [[*query.example.positives, *(negative.text for negative in query.kept)] for query in queries]
    for query, scores in zip(queries, _asked(queries, known, teacher), strict=True):
        own = len(query.example.positives)
        query.positive_scores = scores[:own]
        query.kept = [replace(one, score=score) for one, score in zip(query.kept, scores[own:], strict=True)]
    waiting = [(query, candidates) for query in queries if (candidates := filters.wanted(query))]
    while waiting:
        texts = [[filters.text(one) for one in candidates] for _, candidates in waiting]
        found = _asked([query for query, _ in waiting], texts, teacher)
        for (query, candidates), scores in zip(waiting, found, strict=True):
            least = min(query.positive_scores)
            for candidate, score in zip(candidates, scores, strict=True):
                if score <= share_of(least, share):
                    query.taken.append((candidate, score))
                else:
                    details = {"teacher_score": score, "least_positive_teacher_score": least}
                    filters.refuse("teacher_too_close", query, candidate, details)
        waiting = [(query, candidates) for query, _ in waiting if (candidates := filters.wanted(query))]


def _asked(queries: Sequence[Undecided], texts: Sequence[Sequence[str]], teacher: Scorer) -> list[list[float]]:
    found = teacher.scores([query.example.query for query in queries], texts)
    return [[float(score) for score in row] for row in found]

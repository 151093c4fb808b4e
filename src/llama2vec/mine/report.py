"""The report of mining: what it took, what it removed and why, with counts and examples."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama2vec.records import TrainingExample
from llama2vec.terminal import counted

REASONS = {
    "known_positive": "is a known positive of the query",
    "identical_to_positive": "has the text of a positive (but for case and white space) a second time",
    "near_duplicate_of_positive": "shares its word 5-grams with a positive",
    "query_itself": "is the query's own text",
    "empty": "has no text",
    "above_window": "is ranked above first_rank by another searcher",
    "too_close_to_positive": "scores too close to the positive's score, or above it",
    "duplicate_negative": "has the text of another negative of the query",
    "teacher_too_close": "gets a score from the teacher that is too close to the positive's, or above it",
}
"""Why a candidate is removed, in the order of the tests; the first that fits is counted."""

_RANK_BOUNDS = (1, 10, 20, 50, 100, 200, 500, 1000)
_SHOWN_LETTERS = 240


@dataclass(slots=True)
class _Removed:
    candidates: int = 0
    queries: set[int] = field(default_factory=set)
    passages: set[str] = field(default_factory=set)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self, why: str) -> dict[str, Any]:
        return {"why": why, **dataclasses.asdict(self), "queries": len(self.queries), "passages": len(self.passages)}


class MiningReport:
    """Counts of one mining, with up to ``most_examples`` examples for each reason and for short queries."""

    def __init__(self, most_examples: int = 5) -> None:
        self.queries = self.written = 0  # mined for, and written to the output
        self.mined = self.kept = self.replaced = 0  # negatives: new, the examples' own, and those lost
        self.candidates = 0  # pairs of a query and a passage that were examined
        self.unbounded = 0  # queries whose positives all score 0, so that no score was too close
        self.unknown_positives = 0  # positives that the corpus does not have
        self.misnamed_positives = 0  # of these, those whose id names another text in the corpus
        self.scores_dropped = 0  # queries whose teacher scores were dropped with the negatives they belonged to
        self.facts: dict[str, Any] = {}  # what else the file says: seconds, passages
        self._most_examples = most_examples
        self._removed: dict[str, _Removed] = {}
        self._ranks: dict[str, list[int]] = {}
        self._found_by: Counter[str] = Counter()
        self._short: Counter[int] = Counter()
        self._short_examples: list[dict[str, Any]] = []

    def removed(self, reason: str) -> int:
        """Return how many candidates were removed for a reason."""
        return self._removed[reason].candidates if reason in self._removed else 0

    @property
    def short(self) -> int:
        """Queries that got fewer negatives than asked."""
        return self._short.total()

    def remove(
        self, reason: str, query: str, passage_id: str, text: str, details: Mapping[str, Any], *, number: int = 0
    ) -> None:
        """Count a removed candidate; ``details`` (ranks, scores, positive) are shown with the examples.

        ``number`` counts the queries from 1; 0 = the last one.
        """
        entry = self._removed.setdefault(reason, _Removed())
        entry.candidates += 1
        entry.passages.add(passage_id)
        entry.queries.add(number or self.queries)
        if len(entry.examples) < self._most_examples:
            shown = {"query": _cut(query), "passage_id": passage_id, "passage": _cut(text)}
            entry.examples.append(shown | {name: _cut(value) for name, value in details.items()})

    def choose(self, ranks: Mapping[str, int]) -> None:
        """Count a mined negative by the searchers that found it and its rank with each."""
        self.mined += 1
        self._found_by[" and ".join(sorted(ranks))] += 1
        for name, rank in ranks.items():
            self._ranks.setdefault(name, []).append(rank)

    def come_short(self, example: TrainingExample, got: int) -> None:
        """Count a query that got too few negatives."""
        self._short[got] += 1
        if len(self._short_examples) < self._most_examples:
            self._short_examples.append({"query": _cut(example.query), "query_id": example.query_id, "got": got})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            **self.facts,
            "queries": self.queries,
            "written": self.written,
            "negatives": {"mined": self.mined, "kept": self.kept, "replaced": self.replaced},
            "candidates": self.candidates,
            "removed": {
                reason: self._removed[reason].to_dict(why) for reason, why in REASONS.items() if self.removed(reason)
            },
            "short": {
                "queries": self.short,
                "by_negatives": {str(got): count for got, count in sorted(self._short.items())},
                "examples": self._short_examples,
            },
            "found_by": dict(self._found_by),
            "ranks": {name: rank_distribution(ranks) for name, ranks in self._ranks.items()},
            "queries_without_bound": self.unbounded,
            "positives_not_in_corpus": self.unknown_positives,
            "positives_with_the_id_of_another_text": self.misnamed_positives,
            "teacher_scores_dropped": self.scores_dropped,
        }

    def summary(self) -> str:
        """Return the counts as a few lines of text."""
        lines = [
            f"{counted(self.candidates, 'candidate')} for {counted(self.queries, 'query', 'queries')}; "
            f"{counted(self.mined, 'negative')} mined"
        ]
        lines[0] += f", {self.kept:,} kept" if self.kept else ""
        lines[0] += f", {self.replaced:,} replaced" if self.replaced else ""
        for reason, why in REASONS.items():
            if reason in self._removed:
                entry = self._removed[reason]
                lines.append(
                    f"  removed {entry.candidates:>9,}  {reason}: {why} "
                    f"({counted(len(entry.passages), 'passage')}, {counted(len(entry.queries), 'query', 'queries')})"
                )
        for name, ranks in self._ranks.items():
            spread = rank_distribution(ranks)
            lines.append(f"  ranks by {name}: median {spread['median']}, {spread['lowest']} to {spread['highest']}")
        if self.short:
            by_count = ", ".join(f"{count:,} got {got}" for got, count in sorted(self._short.items()))
            lines.append(f"  short    {self.short:>9,}  fewer negatives than asked: {by_count}")
        if self.unbounded:
            lines.append(
                f"  positives of {counted(self.unbounded, 'query', 'queries')} score 0: no score was too close there"
            )
        if self.unknown_positives:
            named = f", {self.misnamed_positives:,} with the id of another text" if self.misnamed_positives else ""
            lines.append(f"  {counted(self.unknown_positives, 'positive')} not in the corpus{named}")
        if self.scores_dropped:
            lines.append(
                f"  {counted(self.scores_dropped, 'query', 'queries')} lost the teacher scores of former negatives"
            )
        return "\n".join(lines)


def rank_distribution(ranks: Sequence[int]) -> dict[str, Any]:
    """Return lowest, median and highest of some ranks, and how many lie in each span.

    >>> rank_distribution([7, 1, 15, 1])
    {'lowest': 1, 'median': 1, 'highest': 15, 'spans': {'1': 2, '2-10': 1, '11-20': 1}}
    """
    ordered, spans = sorted(ranks), {}
    for low, high in zip((0, *_RANK_BOUNDS), (*_RANK_BOUNDS, ordered[-1]), strict=True):
        inside = bisect_right(ordered, high) - bisect_right(ordered, low)
        if inside > 0:
            spans[str(high) if high == low + 1 else f"{low + 1}-{high}"] = inside
    median = ordered[(len(ordered) - 1) // 2]
    return {"lowest": ordered[0], "median": median, "highest": ordered[-1], "spans": spans}


def _cut(value: Any) -> Any:
    """Shorten a long text."""
    if isinstance(value, str) and len(value) > _SHOWN_LETTERS:
        return value[: _SHOWN_LETTERS - 1] + "…"
    return value

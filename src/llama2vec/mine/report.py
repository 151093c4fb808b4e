"""What mining took, what it left out and why: counted, with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama2vec.records import TrainingExample

REASONS = {
    "known_positive": "is a known positive of the query",
    "identical_to_positive": "has the text of a positive (but for case and white space) a second time",
    "near_duplicate_of_positive": "shares its word 5-grams with a positive",
    "query_itself": "is the query's own text",
    "empty": "has no text",
    "above_window": "is ranked above first_rank by another searcher",
    "too_close_to_positive": "scores too close to the positive's score, or above it",
    "duplicate_negative": "has the text of another negative of the query",
}
"""Why a candidate is left out, in the order of the tests: the first that fits is counted."""

_RANK_BOUNDS = (1, 10, 20, 50, 100, 200, 500, 1000)
_SHOWN_LETTERS = 240


@dataclass(slots=True)
class _Removed:
    candidates: int = 0
    queries: int = 0
    passages: set[str] = field(default_factory=set)
    examples: list[dict[str, Any]] = field(default_factory=list)


class MiningReport:
    """Counts of one mining.

    Args:
        most_examples: Examples to keep of each reason and of the short queries.

    Attributes:
        queries: Queries mined for.
        written: Queries that made it into the output.
        mined: Negatives that were mined.
        kept: Negatives that the examples brought along and keep.
        replaced: Negatives that the examples brought along and lose.
        candidates: Pairs of a query and a passage that were looked at.
        unbounded: Queries whose positives score 0, so that no score was too close.
        unknown_positives: Positives that the corpus does not have.
        scores_dropped: Queries whose teacher scores went with the negatives they belonged to.
        facts: What else the file says: seconds, passages.
    """

    def __init__(self, most_examples: int = 5) -> None:
        self.queries = self.written = self.mined = self.kept = self.replaced = 0
        self.candidates = self.unbounded = self.unknown_positives = self.scores_dropped = 0
        self.facts: dict[str, Any] = {}
        self._most_examples = most_examples
        self._removed: dict[str, _Removed] = {}
        self._last_query: dict[str, int] = {}
        self._ranks: dict[str, Counter[int]] = {}
        self._found_by: Counter[str] = Counter()
        self._short: Counter[int] = Counter()
        self._short_examples: list[dict[str, Any]] = []

    def removed(self, reason: str) -> int:
        """Return how many candidates were left out for a reason."""
        return self._removed[reason].candidates if reason in self._removed else 0

    def removed_passages(self, reason: str) -> set[str]:
        """Return the ids of the distinct passages among them."""
        return set(self._removed[reason].passages) if reason in self._removed else set()

    @property
    def short(self) -> int:
        """Queries that got fewer negatives than asked."""
        return self._short.total()

    def remove(self, reason: str, query: str, passage_id: str, text: str, details: Mapping[str, Any]) -> None:
        """Count a candidate that is left out; ``details`` (ranks, scores, positive) are shown with the examples."""
        entry = self._removed.setdefault(reason, _Removed())
        entry.candidates += 1
        entry.passages.add(passage_id)
        if self._last_query.get(reason) != self.queries:
            self._last_query[reason] = self.queries
            entry.queries += 1
        if len(entry.examples) < self._most_examples:
            shown = {"query": _cut(query), "passage_id": passage_id, "passage": _cut(text)}
            entry.examples.append(shown | {name: _cut(value) for name, value in details.items()})

    def choose(self, ranks: Mapping[str, int]) -> None:
        """Count a mined negative by the searchers that found it and its rank with each."""
        self.mined += 1
        self._found_by[" and ".join(sorted(ranks))] += 1
        for name, rank in ranks.items():
            self._ranks.setdefault(name, Counter())[rank] += 1

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
                reason: {
                    "why": why,
                    "candidates": self._removed[reason].candidates,
                    "queries": self._removed[reason].queries,
                    "passages": len(self._removed[reason].passages),
                    "examples": self._removed[reason].examples,
                }
                for reason, why in REASONS.items()
                if reason in self._removed
            },
            "short": {
                "queries": self.short,
                "by_negatives": {str(got): count for got, count in sorted(self._short.items())},
                "examples": self._short_examples,
            },
            "found_by": dict(self._found_by),
            "ranks": {name: rank_distribution(counts) for name, counts in self._ranks.items()},
            "queries_without_bound": self.unbounded,
            "positives_not_in_corpus": self.unknown_positives,
            "teacher_scores_dropped": self.scores_dropped,
        }

    def summary(self) -> str:
        """Return the counts as a few lines for people."""
        lines = [f"{self.candidates:,} candidates for {self.queries:,} queries; {self.mined:,} negatives mined"]
        lines[0] += f", {self.kept:,} kept" if self.kept else ""
        lines[0] += f", {self.replaced:,} replaced" if self.replaced else ""
        for reason, why in REASONS.items():
            if reason in self._removed:
                entry = self._removed[reason]
                lines.append(
                    f"  removed {entry.candidates:>9,}  {reason}: {why} "
                    f"({len(entry.passages):,} passages, {entry.queries:,} queries)"
                )
        for name, counts in self._ranks.items():
            spread = rank_distribution(counts)
            lines.append(f"  ranks by {name}: median {spread['median']}, {spread['lowest']} to {spread['highest']}")
        if self.short:
            by_count = ", ".join(f"{count:,} got {got}" for got, count in sorted(self._short.items()))
            lines.append(f"  short    {self.short:>9,}  queries got fewer negatives than asked: {by_count}")
        if self.unbounded:
            lines.append(f"  {self.unbounded:,} queries have positives that score 0: no score was too close there")
        if self.unknown_positives:
            lines.append(f"  {self.unknown_positives:,} positives are not in the corpus")
        if self.scores_dropped:
            lines.append(f"  {self.scores_dropped:,} queries lost the teacher scores of their former negatives")
        return "\n".join(lines)


def rank_distribution(counts: Mapping[int, int]) -> dict[str, Any]:
    """Return lowest, median and highest of counted ranks, and how many lie in each span.

    >>> rank_distribution({1: 2, 7: 1, 15: 1})
    {'lowest': 1, 'median': 1, 'highest': 15, 'spans': {'1': 2, '2-10': 1, '11-20': 1}}
    """
    ranks = sorted(counts)
    total, seen, median = sum(counts.values()), 0, ranks[0]
    for rank in ranks:
        seen += counts[rank]
        if 2 * seen >= total:
            median = rank
            break
    spans: dict[str, int] = {}
    for low, high in zip((0, *_RANK_BOUNDS), (*_RANK_BOUNDS, ranks[-1]), strict=True):
        inside = sum(count for rank, count in counts.items() if low < rank <= high)
        if inside:
            spans[str(high) if high == low + 1 else f"{low + 1}-{high}"] = inside
    return {"lowest": ranks[0], "median": median, "highest": ranks[-1], "spans": spans}


def _cut(value: Any) -> Any:
    """Shorten a long text."""
    if isinstance(value, str) and len(value) > _SHOWN_LETTERS:
        return value[: _SHOWN_LETTERS - 1] + "…"
    return value

"""The frozen types that travel between the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Qrels = Mapping[str, Mapping[str, int]]
"""Relevance judgments: query id → passage id → gain (0 = judged not relevant)."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to be found.

    Attributes:
        id: Unique within its corpus.
        text: The body.
        title: Put in front of the body where there is one.
    """

    id: str
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title and body as one text, as BEIR systems join them.

        >>> Passage("1", "A camelid.", "Llama").full_text
        'Llama A camelid.'
        """
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True)
class Query:
    """A question or a search phrase."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class AdaptationExample:
    """One unlabeled passage and what follows it in the same document.

    Attributes:
        text: The passage T that is read and that EBAE predicts.
        next_text: The following passage U that EBAR predicts; empty where the document ends.
    """

    text: str
    next_text: str


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One query with passages that answer it and passages that do not (stage 2).

    Attributes:
        query: The query's text.
        positives: At least one text that answers it.
        negatives: Hard negatives: texts that look like answers and are none.
        positive_scores: A teacher's score of each positive, for distillation; empty where there is none.
        negative_scores: The same for each negative.
        query_id: The query's id where the source has one, else "".
        positive_ids: Passage ids of the positives; empty where the source has none.
        negative_ids: Passage ids of the negatives; empty where the source has none.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()
    query_id: str = ""
    positive_ids: tuple[str, ...] = ()
    negative_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SentencePair:
    """Two sentences and how alike people found them (STS)."""

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Run:
    """What one system returned: query id → passage id → score.

    Attributes:
        results: Per query the scores of the returned passages.
        tag: Name of the system, the last column of a TREC run.
    """

    results: Mapping[str, Mapping[str, float]]
    tag: str = "llama2vec"

    def ranking(self, query_id: str) -> list[tuple[str, float]]:
        """Return one query's passages, best first; equal scores are ordered by passage id.

        >>> Run({"q": {"b": 1.0, "a": 1.0, "c": 2.0}}).ranking("q")
        [('c', 2.0), ('a', 1.0), ('b', 1.0)]
        """
        return sorted(self.results[query_id].items(), key=lambda pair: (-pair[1], pair[0]))


@dataclass(frozen=True)
class Report:
    """Scores of one system on one task.

    Attributes:
        task: What was evaluated, such as ``cranfield/test``.
        system: What produced the run.
        metrics: Measure name (``nDCG@10``) → mean over the queries.
        intervals: Measure name → (low, high) of the 95 % bootstrap interval of the mean.
        per_query: Measure name → query id → value.
        settings: What made it: contract hash, lengths, versions.
    """

    task: str
    system: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_query: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

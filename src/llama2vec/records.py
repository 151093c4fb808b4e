"""The frozen types that travel between the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Qrels = Mapping[str, Mapping[str, int]]
"""Relevance judgments: query id → passage id → gain (0 = judged not relevant)."""

Side = Literal["query", "passage"]
"""The two kinds of texts that an encoder reads, each with its own prompt and length."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to search for.

    Attributes:
        id: Unique within its corpus.
        text: The body.
        title: Precedes the body when the passage is encoded; may be empty.
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
    """One unlabeled passage and the text that follows it in the same document.

    Attributes:
        text: The passage T that is read and that EBAE predicts.
        next_text: The following passage U that EBAR predicts; empty at the end of a document.
    """

    text: str
    next_text: str


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One query with passages that answer it and passages that do not (stage 2).

    Attributes:
        query: The query's text.
        positives: At least one text that answers it.
        negatives: Hard negatives: texts that resemble answers but are not.
        positive_scores: A teacher's score of each positive, for distillation; empty without a teacher.
        negative_scores: The same for each negative.
        query_id: The query's id; "" if the source has none.
        positive_ids: Passage ids of the positives; empty if the source has none.
        negative_ids: Passage ids of the negatives; empty if the source has none.
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
    """Two sentences with a human similarity score (STS)."""

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
        task: Name of the task, such as ``cranfield/test``.
        system: Name of the system.
        metrics: Measure name (``nDCG@10``) → mean over the queries.
        intervals: Measure name → (low, high) of the 95 % bootstrap interval of the mean.
        per_query: Measure name → query id → value.
        settings: The settings behind the scores: contract hash, lengths, versions.
    """

    task: str
    system: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_query: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

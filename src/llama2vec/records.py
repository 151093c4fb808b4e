"""The frozen types that travel between the stages: Passage, Query, TrainingExample, Run, Report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

import numpy as np
import numpy.typing as npt

Qrels = Mapping[str, Mapping[str, int]]
"""Relevance judgments: query id → passage id → gain (0 = judged not relevant)."""

Vectors = npt.NDArray[np.float32]
"""[N, D] float32, one L2-normalized row per text."""

VectorFormat = Literal["float32", "float16", "int8"]
"""How a store keeps its vectors, the most exact first."""

Side = Literal["query", "passage"]
"""The two kinds of texts that an encoder reads, each with its own prompt and length."""
SIDES: tuple[Side, ...] = ("query", "passage")


Value = str | int | float | bool
"""What a field of a document can hold."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a passage stands: its document, and the part of the document's text that it is."""

    document: str  # Path of the file relative to its folder, as people write it; the id of a row
    begin: int  # First character of the passage in the document's text
    end: int  # The character after its last one
    first_line: int | None = None  # From 1: of the file, or of the page where there are pages; None = no lines
    last_line: int | None = None
    page: int | None = None  # From 1; the page on which the passage begins


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to search for."""

    id: str  # Unique within its corpus
    text: str  # The body
    title: str = ""  # Precedes the body when the passage is encoded; may be empty
    place: Place | None = None  # None = a whole row of a corpus
    fields: Mapping[str, Value] = field(default_factory=dict, hash=False)  # Metadata to filter by

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
    """One unlabeled passage and the text that follows it in the same document."""

    text: str  # The passage T that is read and that EBAE predicts
    next_text: str  # The following passage U that EBAR predicts; empty at the end of a document


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One query with passages that answer it and passages that do not (stage 2).

    Attributes:
        positive_scores: A teacher's score of each positive, for distillation; empty without a teacher.
    """

    query: str  # The query's text
    positives: tuple[str, ...]  # At least one text that answers it
    negatives: tuple[str, ...] = ()  # Hard negatives: texts that resemble answers but are not
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()  # The same for each negative
    query_id: str = ""  # The query's id; "" if the source has none
    positive_ids: tuple[str, ...] = ()  # Passage ids of the positives; empty if the source has none
    negative_ids: tuple[str, ...] = ()  # Passage ids of the negatives; empty if the source has none


@dataclass(frozen=True, slots=True)
class SentencePair:
    """Two sentences with a human similarity score (STS)."""

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Run:
    """What one system returned: query id → passage id → score."""

    results: Mapping[str, Mapping[str, float]]  # Per query the scores of the returned passages
    tag: str = "llama2vec"  # Name of the system, the last column of a TREC run

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
        intervals: Measure name → (low, high) of the 95 % bootstrap interval of the mean.
        settings: The settings behind the scores: contract hash, lengths, versions.
    """

    task: str  # Name of the task, such as ``cranfield/test``
    system: str  # Name of the system
    metrics: Mapping[str, float]  # Measure name (``nDCG@10``) → mean over the queries
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_query: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # Measure name → query id → value
    settings: Mapping[str, object] = field(default_factory=dict)


def is_whole_number(value: object) -> TypeGuard[int]:
    """Tell whether a value counts something: an integer of Python or NumPy, and no truth value.

    >>> is_whole_number(3), is_whole_number(3.0), is_whole_number("3"), is_whole_number(True)
    (True, False, False, False)
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_iterable(value: object) -> bool:
    """Tell whether a value can be iterated over, which an array without dimensions only seems to allow.

    >>> is_iterable(["a"]), is_iterable(np.array(["a"])), is_iterable(np.array("a"))
    (True, True, False)
    """
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True

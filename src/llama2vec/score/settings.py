"""Settings of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llama2vec.config import Settings
from llama2vec.data.documents.windows import WindowKind
from llama2vec.data.settings import ReadingSettings
from llama2vec.languages import Language

SentenceSides = Literal["query", "passage", "both"]
SystemName = Literal["bm25", "raw", "adapted", "finetuned", "hybrid"]


class ScoringSettings(Settings):
    """How tasks are scored; what is not set follows each task.

    Attributes:
        windows: Cut documents into windows: ``maxp`` scores a document by its best window, ``firstp`` by its first.
            None = ``firstp`` for an encoder on tasks with long documents, otherwise uncut. BM25 has no limit: without
            ``window_tokens`` it searches whole documents under ``firstp``, alone and in a hybrid.
        sentence_sides: How a model reads sentence pairs: both as a ``query``, both as a ``passage``, or ``both`` ways,
            the first as a query and the second as a passage. Each side has its prompt and length.
    """

    metrics: list[str] = Field(default_factory=list)  # Metrics of retrieval tasks; empty = the task's own
    depth: Annotated[int, Field(ge=1)] | None = None  # Passages scored per query; None = the task's, usually 1000
    windows: WindowKind | None = None
    window_tokens: Annotated[int, Field(ge=2)] | None = None  # Tokens (BM25: words) of a window; None = what it reads
    stride: Annotated[int, Field(ge=1)] | None = None  # Tokens from a window's start to the next; None = half of it
    exclude_same_id: bool | None = None  # Skip the passage that has its query's id; None = as the task says
    sentence_sides: SentenceSides = "query"
    language: Language = "en"  # Language of BM25's words; in a run, that of its index
    reading: ReadingSettings = ReadingSettings()  # Names the fields of a corpus where they are not the usual ones
    data_root: str = "data"  # Folder in which named tasks are looked for, as ``beir/NAME`` and the like


class EvaluateSettings(ScoringSettings):
    """What the models of a run are scored on.

    Attributes:
        tasks: Names such as ``beir/scifact``, BEIR folders (``PATH`` or ``PATH:SPLIT``), files of sentence pairs.
        systems: ``bm25``, ``raw`` (the LLM as it comes; mean pooling unless it has a contract), ``adapted``,
            ``finetuned``, ``hybrid`` (the last of these with BM25). Empty = BM25, every model the run makes, and
            ``hybrid`` if the index has BM25.
    """

    tasks: Annotated[list[str], Field(min_length=1)]
    systems: list[SystemName] = Field(default_factory=list)

"""Settings of hard-negative mining."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llama2vec.config import StableHashSettings
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.languages import Language
from llama2vec.settings import LanguageSettings


class MineSettings(StableHashSettings):
    """Which passages become hard negatives.

    Attributes:
        first_rank: First rank of the window, counted from 1 in each searcher's own ranking. What any searcher ranks
            higher is removed, because unlabeled answers stand at the top.
        choose: ``sample`` draws evenly from what the filters leave of the window, ``top`` takes the best ranked.
        max_share_of_positive: Drop candidates that score above this share of the positive's score (NV-Retriever,
            arXiv 2407.15831, finds 0.95 best); 0 = off.
        margin: Drop candidates that score above the positive's score minus this margin; 0 = off.
        near_duplicate: Drop candidates that share this fraction of the shorter text's word 5-grams with a positive;
            0 = off.
        teacher: A model that scores the positives and negatives that are written (``pos_scores``, ``neg_scores``), for
            distillation: a cross-encoder, any sentence-transformers model, or one that llama2vec saved.
        teacher_share_of_positive: Drop candidates that the teacher scores above this share of its lowest score of a
            positive; the next ones take their place. 0 = off.
        short: What to do with queries that get too few negatives: ``keep`` them, ``drop`` them, or ``error``.
    """

    added_later = frozenset({"teacher", "teacher_share_of_positive"})

    bm25: bool = True  # Search with BM25, with or without a model as well
    language: Language = "en"  # ISO 639 code that chooses BM25's stop words and stemmer
    negatives: Annotated[int, Field(ge=1)] = 7  # Negatives per query, including those that are kept
    first_rank: Annotated[int, Field(ge=1)] = 1
    last_rank: Annotated[int, Field(ge=1)] = 200  # Last rank of the window (200 as the authors report)
    choose: Literal["sample", "top"] = "sample"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # Sampling seed; results do not depend on input order
    max_share_of_positive: Annotated[float, Field(ge=0, le=1)] = 0.95
    margin: Annotated[float, Field(ge=0)] = 0.0
    near_duplicate: Annotated[float, Field(ge=0, le=1)] = 0.5
    keep_existing: bool = False  # Keep the examples' own negatives; otherwise they are replaced
    write_scores: bool = False  # Write the scores of positives and negatives, for distillation
    teacher: str = ""
    teacher_share_of_positive: Annotated[float, Field(ge=0, le=1)] = 0.95
    short: Literal["keep", "drop", "error"] = "keep"
    report_examples: Annotated[int, Field(ge=0)] = 5  # Examples per reason in the report

    @model_validator(mode="after")
    def _window(self) -> MineSettings:
        if self.first_rank > self.last_rank:
            raise ValueError(f"first_rank ({self.first_rank}) must be at most last_rank ({self.last_rank})")
        return self


class MineConfig(LanguageSettings):
    """A whole mining recipe."""

    mine: MineSettings = MineSettings()
    reading: ReadingSettings = ReadingSettings()  # How documents and rows of the corpus are read
    passages: PassageSettings = PassageSettings()  # How documents of the corpus are split

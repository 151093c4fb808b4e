"""Settings of generation, and the prompt of the LLM that writes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from llama2vec.config import Settings
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.languages import Language
from llama2vec.settings import LanguageSettings

FEW_SHOT = """\
Passage: The heart is a muscular organ. It pumps blood through the body and is made of four chambers.
Question: how many chambers does the heart have

Passage: Copper was smelted in Anatolia as early as 5000 BC. Traders carried it along the rivers to the coast, where \
it was exchanged for grain.
Question: where was copper first smelted

Passage: A bank may close an account that has not been used for two years. The owner is told by letter and has ninety \
days to object.
Question: what happens to a bank account that is not used

Passage: {passage}
Question:"""
"""Three examples, for LLMs with and without instruction tuning."""

FILTERS = frozenset({"min_words", "max_words", "most_copied", "round_trip", "language"})
"""Settings that choose among written questions."""


class GenerateSettings(Settings):
    """How an LLM writes questions for passages (InPars, arXiv 2202.05144; GPL, arXiv 2112.07577).

    Attributes:
        model: "" = the LLM of the run, or of ``--model``.
        prompt: What the LLM reads; it continues with the question, up to the end of the line. ``{passage}`` stands for
            the passage, title included.
        passages: Number of passages, spread evenly over the corpus; 0 = all.
        temperature: 0 = always the most likely token, which allows one question a passage.
        most_copied: Longest run of words that a question shares with its passage, as a share of the question's words.
        round_trip: Drop questions whose passage is not among this many best ones of BM25; 0 = keep them.
    """

    model: str = ""
    prompt: str = FEW_SHOT
    passages: Annotated[int, Field(ge=0)] = 0
    questions: Annotated[int, Field(ge=1, le=32)] = 2  # Number of questions that are written for a passage
    passage_min_words: Annotated[int, Field(ge=1)] = 8  # Shorter passages get no questions
    passage_max_tokens: Annotated[int, Field(ge=8)] = 160  # The rest of a passage is not read
    question_max_tokens: Annotated[int, Field(ge=4)] = 32  # A question that needs more is dropped
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9  # Draw from the likeliest tokens that add up to this probability
    batch_size: Annotated[int, Field(ge=1)] = 16  # Number of passages that the LLM reads at once
    min_words: Annotated[int, Field(ge=1)] = 3  # Words of the shortest question; two Chinese or Japanese signs are one
    max_words: Annotated[int, Field(ge=1)] = 24  # Words of the longest question, counted likewise
    most_copied: Annotated[float, Field(ge=0, le=1)] = 0.7
    round_trip: Annotated[int, Field(ge=0)] = 3
    language: Language = "en"  # ISO 639 code that chooses BM25's stop words and stemmer
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # Seed of the sampling

    @field_validator("prompt")
    @classmethod
    def _names_the_passage(cls, prompt: str) -> str:
        if prompt.count("{passage}") != 1:
            raise ValueError("must name {passage} once, where the passage stands")
        return prompt

    @model_validator(mode="after")
    def _possible(self) -> GenerateSettings:
        if self.temperature == 0 and self.questions > 1:
            raise ValueError(f"temperature 0 writes the same question {self.questions} times; set questions = 1")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) must be at most max_words ({self.max_words})")
        return self


class GenerateConfig(LanguageSettings):
    """A whole recipe of generation."""

    generate: GenerateSettings = GenerateSettings()
    reading: ReadingSettings = ReadingSettings()  # How documents and rows of the corpus are read
    passages: PassageSettings = PassageSettings()  # How documents of the corpus are split

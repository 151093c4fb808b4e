"""Settings of the texts to read: files of any format, plain text, and pairs made from a corpus."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from llama2vec.config import Settings, StableHashSettings
from llama2vec.languages import Language

Ties = Literal["trec_eval", "id"]
"""How equal scores of a run are ranked: ``trec_eval`` as it does, by descending id; ``id`` by ascending id."""

DEFAULT_EXCLUDE = (
    "node_modules/**",
    "**/node_modules/**",
    "__pycache__/**",
    "**/__pycache__/**",
    "_static/**",
    "**/_static/**",
    "**/*.min.js",
    "**/*.min.css",
    "**/searchindex.js",
)
"""Installed packages, caches and scripts that often lie among documents."""


def check_encoding(name: str) -> str:
    """Return ``auto`` or the name of a codec as it is. Raises ValueError: Python has no such text encoding."""
    try:
        "".encode(name if name != "auto" else "utf-8")
    except LookupError:
        raise ValueError(f"{name!r} is not a text encoding; write auto, utf-8, cp1252 or the like") from None
    return name


def check_stop_words(choice: str, language: str) -> None:
    """Raise a ValueError if a list of stop words belongs to another language."""
    if choice == "nltk" and language != "en":
        raise ValueError(f"stop_words = nltk is an English list and the language is {language}; choose iso")


def _after_defaults(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return patterns of files to leave unread after the default ones, unless they stand there."""
    return patterns if patterns[: len(DEFAULT_EXCLUDE)] == DEFAULT_EXCLUDE else (*DEFAULT_EXCLUDE, *patterns)


class ReadingSettings(Settings):
    """How a folder of documents, or one document, is read.

    Attributes:
        text_field: Field of a JSON object or of a JSON line that holds its text; empty = ``text``, ``contents`` or
            the like, else the field with the longest texts.
        id_field: Field or column that names a row; empty = ``_id``, ``id``, ``docid`` or the like of a JSON object,
            else the row's line or number.
        title_field: Field or column that holds a row's title; empty = ``title``, ``subject``, ``question`` or the like.
        text_columns: Columns of a table that hold its text; empty = those with the longest texts.
        max_file_bytes: Larger files are skipped by name. The files of one archive may be eight times as large together.
        include: Patterns of paths to read, as in .gitignore, such as ``guide/`` or ``*.pdf``; empty = all.
        exclude: Patterns of paths to leave unread, each skipped by name; they are added to the defaults. One that
            begins with ``!`` takes back what those before it match; ``!*`` drops the defaults.
        strict: A file that is skipped or read in part is an error.
    """

    text_field: str = ""
    id_field: str = ""
    title_field: str = ""
    text_columns: tuple[str, ...] = ()
    max_file_bytes: Annotated[int, Field(ge=1, lt=2**63)] = 128 * 2**20
    encoding: Annotated[str, AfterValidator(check_encoding)] = "auto"  # Encoding of texts; ``auto`` = found by file
    include: tuple[str, ...] = ()
    exclude: Annotated[tuple[str, ...], AfterValidator(_after_defaults)] = DEFAULT_EXCLUDE
    strict: bool = False

    @property
    def choices(self) -> dict[str, Any]:
        """What differs from the defaults and decides what is read; empty where nothing does."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"strict"})

    @property
    def names_fields(self) -> bool:
        """Whether it names a field of the rows."""
        return bool(self.text_field or self.id_field or self.title_field)


class PassageSettings(Settings):
    """How documents are split into passages.

    Attributes:
        split: ``auto`` splits documents and leaves the rows of a corpus (BEIR, JSONL, TSV) as they are, ``always``
            splits rows too, ``never`` makes one passage of each document.
        tokens: Longest passage in the model's own tokens, its title included; None = 256, or what the model reads of a
            passage where that is less.
        overlap: Most tokens at the end of a passage that the next one repeats, where no heading, page, table or code
            block begins between them; None = an eighth of ``tokens``.
    """

    split: Literal["auto", "always", "never"] = "auto"
    tokens: Annotated[int, Field(ge=8)] | None = None
    overlap: Annotated[int, Field(ge=0)] | None = None
    language: Language = "en"  # ISO 639-1 code for sentence ends

    @model_validator(mode="after")
    def _some_progress(self) -> PassageSettings:
        if self.tokens and self.overlap and self.overlap > self.tokens // 2:
            raise ValueError(f"overlap ({self.overlap}) is more than half of tokens ({self.tokens})")
        return self


class TextSettings(StableHashSettings):
    """Which plain text to read, and how to cut it into pairs (T, following U).

    Attributes:
        max_words: Longest T and U. The length of each piece is drawn between the two, so that the model sees texts as
            short as queries and as long as passages. Chinese and Japanese signs count as words.
        draw_lengths: False fills every piece up to ``max_words`` instead, as the authors' rows are filled.
        count_prompts: ``max_tokens`` includes prefix and prompts, as in the authors' code.
        stop_words: Words that no embedding has to predict: ``iso`` = stopwords-iso of the language, ``nltk`` = NLTK's
            English list (authors' code), ``none`` = every token is predicted, punctuation too; or a file, one word a
            line.
        limit: Learn from at most this many passages, spread evenly over the corpus in runs of up to 16 of one document,
            or the first ones of ``hf:`` and ``ir:`` sources; 0 = all.
        streaming: Write the pairs to the output folder once and read them from there, so that memory does not grow with
            the corpus. A buffer shuffles them, so their order differs from that in memory.
    """

    added_later = frozenset({"streaming"})

    corpus: str = ""  # Documents (folder or file), BEIR folder, JSONL, TSV, ``hf:dataset``, ``ir:dataset``
    language: Language = "en"  # ISO 639-1 code for sentence ends and stop words
    min_words: Annotated[int, Field(ge=1)] = 8  # Shortest T and U; shorter leftovers merge into the adjacent piece
    max_words: Annotated[int, Field(ge=1)] = 64
    draw_lengths: bool = True
    max_tokens: Annotated[int, Field(ge=4)] = 128  # Longest T in tokens, without prompts
    count_prompts: bool = False
    stop_words: Annotated[str, Field(min_length=1)] = "iso"
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.02  # Share of the documents held out for the validation loss
    limit: Annotated[int, Field(ge=0)] = 0
    streaming: bool = False

    @model_validator(mode="after")
    def _order(self) -> TextSettings:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is larger than max_words ({self.max_words})")
        check_stop_words(self.stop_words, self.language)
        return self


class PairShares(Settings):
    """How often a passage gives a pair of each kind: 0 = never, 1 = whenever possible.

    Attributes:
        halves: One half → the other, cut at the sentence end nearest to the middle; the query half is drawn.
        crop: A few neighboring words → their passage (inverse cloze task, arXiv 1906.00300; cropping,
            arXiv 2112.09118).
    """

    title: Annotated[float, Field(ge=0, le=1)] = 1.0  # Title → text
    first_sentence: Annotated[float, Field(ge=0, le=1)] = 1.0  # First sentence → the rest
    halves: Annotated[float, Field(ge=0, le=1)] = 1.0
    neighbors: Annotated[float, Field(ge=0, le=1)] = 0.0  # A passage → the next one in the same document
    crop: Annotated[float, Field(ge=0, le=1)] = 1.0

    @property
    def need_sentences(self) -> bool:
        """Whether a kind that is wanted cuts texts into sentences."""
        return bool(self.first_sentence or self.halves)


class CorpusPairSettings(Settings):
    """How an unlabeled corpus becomes pairs of query and positive.

    Attributes:
        query_min_words: Shortest query, titles excepted; a shorter first sentence is joined with the next one.
        crop_max_words: Longest crop; its length is drawn between ``query_min_words`` and this.
        passage_min_words: Shortest positive, without its title; shorter texts give no pair.
        keep_query_in_passage: Share of the crops whose positive keeps the cropped words (0.1 in arXiv 1906.00300).
            These teach that equal words matter; the other crops teach that they are not everything.
    """

    kinds: PairShares = PairShares()  # Share of the passages that give a pair of each kind
    language: Language = "en"  # ISO 639-1 code for sentence ends
    query_min_words: Annotated[int, Field(ge=1)] = 3
    query_max_words: Annotated[int, Field(ge=1)] = 64  # Longest query; the rest is cut
    crop_max_words: Annotated[int, Field(ge=1)] = 12
    passage_min_words: Annotated[int, Field(ge=1)] = 8
    keep_query_in_passage: Annotated[float, Field(ge=0, le=1)] = 0.1
    limit: Annotated[int, Field(ge=0)] = 0  # Passages that give pairs, spread evenly over the corpus; 0 = all

    @model_validator(mode="after")
    def _possible(self) -> CorpusPairSettings:
        if not self.query_min_words <= self.crop_max_words <= self.query_max_words:
            raise ValueError(
                f"query_min_words ({self.query_min_words}) ≤ crop_max_words ({self.crop_max_words}) ≤ "
                f"query_max_words ({self.query_max_words}) must hold"
            )
        if not any(self.kinds.model_dump().values()):
            raise ValueError("the share of every kind is 0, which gives no pairs; set at least one above 0")
        return self

"""Texts that come from Python as passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama2vec.data.corpus.rows import is_missing, passage_fields, plain_value, row_fields
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError, DataError, EmptyCorpusError
from llama2vec.records import Passage, Query, is_iterable

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder


def as_passages(texts: Iterable[str | Mapping[str, Any] | Passage]) -> list[Passage]:
    """Return texts as passages.

    Args:
        texts: Strings, passages, or rows with a ``text`` and perhaps ``id`` (or ``_id``) and ``title``; also a pandas
            data frame with such columns. A text without an id has its number as its id. Other texts, numbers and truth
            values of a row become fields, which filters can use.

    Raises:
        DataError: Something is not a text, or two texts have one id.
        EmptyCorpusError: The list is empty.

    >>> camelid, river = as_passages(["A camelid.", {"id": "x", "text": "A river.", "length_km": 6400}])
    >>> camelid.id, river.id, river.fields
    ('0', 'x', {'length_km': 6400})
    """
    if isinstance(texts, str | Mapping | Passage):
        raise DataError(f"texts is one {type(texts).__name__}; put it into a list")
    if not is_iterable(texts):
        raise DataError(f"texts is of type {type(texts).__name__}; give a list of strings, rows or passages")
    # Iterating over a data frame gives the names of its columns.
    rows: Iterable[Any] = texts.to_dict("records") if hasattr(texts, "to_dict") and hasattr(texts, "columns") else texts
    passages = [_passage(row, number) for number, row in enumerate(rows)]
    if not passages:
        raise EmptyCorpusError("the list of texts is empty; give at least one")
    check_distinct((passage.id for passage in passages), "texts")
    return passages


def as_queries(queries: Iterable[Query]) -> Sequence[Query]:
    """Return queries as a list; a DataError if they are not :class:`Query` objects whose id and text are strings."""
    how = "give Query objects, such as [Query('q1', 'Which animal carries loads?')], or ask one question with hits"
    if isinstance(queries, str | Mapping | Query) or not is_iterable(queries):
        raise DataError(f"queries is of type {type(queries).__name__}; {how}")
    queries = list(queries)
    for number, query in enumerate(queries):
        if not isinstance(query, Query):
            raise DataError(f"query {number} is of type {type(query).__name__}; {how}")
        for name in ("id", "text"):
            if not isinstance(value := getattr(query, name), str):
                raise DataError(f"the {name} of query {number} is of type {type(value).__name__}; give a string")
    return queries


def as_question(question: str) -> Query:
    """Return one question as a query; a DataError if it is not a string."""
    if not isinstance(question, str):
        raise DataError(f"the question is of type {type(question).__name__}; give one string")
    return Query("question", question)


def check_ways(model: object, language: object, split: object) -> None:
    """Raise a ConfigError unless texts can be split and searched as a program asks."""
    if split is not None and not isinstance(split, PassageSettings):
        raise ConfigError(f"split is of type {type(split).__name__}; give split=PassageSettings(tokens=…)")
    if language is not None and not isinstance(language, str):
        raise ConfigError(f"language is {language!r}; give an ISO 639 code such as 'en', or None to leave out BM25")
    if model is None and language is None:
        raise ConfigError("without a model and without a language nothing can be searched; give one of them")


def check_distinct(ids: Iterable[str], noun: str) -> None:
    """Raise a DataError if two of the ``noun`` (plural) have one id."""
    numbers: dict[str, int] = {}
    for number, one in enumerate(ids):
        if numbers.setdefault(one, number) != number:
            raise DataError(f"{noun} {numbers[one]} and {number} share the id {one!r}; make ids unique")


def _passage(row: Any, number: int) -> Passage:
    """Return one text as a passage, with every field checked."""
    if isinstance(row, Mapping):
        if "text" not in row:
            known = ", ".join(map(str, list(row)[:6]))
            raise DataError(f"text {number} has no 'text' (only {known}); name the field with the text so")
        # Data frames write what is missing as NaN, NaT or NA, and whole numbers beside it as 1.0, 2.0, …
        given = next((plain_value(row[name]) for name in ("_id", "id") if not is_missing(row.get(name))), number)
        given = int(given) if isinstance(given, float) and given.is_integer() else given
        title: Any = row.get("title")
        row = Passage(str(given), row["text"], "" if is_missing(title) else title, fields=row_fields(row))
    passage = row if isinstance(row, Passage) else Passage(str(number), row)
    if passage.fields:
        passage = replace(passage, fields=passage_fields(passage.fields, f"text {number}"))
    for name in ("id", "text", "title"):
        value = getattr(passage, name)
        if not isinstance(value, str):
            problem = f"the {name} of text {number} is of type {type(value).__name__}"
            raise DataError(f"{problem}; give strings, rows with a 'text', or passages")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataError(f"the {name} of text {number} holds half a surrogate pair; decode it properly") from None
    if not passage.id.strip():
        raise DataError(f"text {number} has an empty id; give it one, or leave ids out")
    return passage


def split_passages(passages: Iterable[Passage], encoder: Encoder | None, settings: PassageSettings) -> list[Passage]:
    """Cut passages in the tokens of an encoder, or in words where there is none."""
    from llama2vec.model.tokens import encoder_splitter

    splitter = encoder_splitter(encoder, settings) if encoder else Splitter.of_words(settings)
    return as_passages(part for passage in passages for part in splitter.split_row(passage))

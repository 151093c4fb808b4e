"""Where hard negatives come from: BM25 or any encoder, asked for candidates and for scores of known passages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llama2vec.data.text.words import text_key
from llama2vec.errors import DataError, EmptyCorpusError
from llama2vec.records import Passage, Query, TrainingExample
from llama2vec.retrieve.index.exact import Index, Rows, Scores
from llama2vec.retrieve.index.lexical import Bm25Index, best_matches
from llama2vec.retrieve.search.opened import QueryEncoder, check_contract
from llama2vec.retrieve.store.reader import PassageEncoder

TEXT_ID = "text:"
"""Opens the ids of passages that have none of their own."""
Target = int | str
"""A passage to be scored: its row in the corpus, or its text where the corpus does not have it."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The answer of one searcher to one query."""

    rows: Rows  # [K] rows of the best passages, best first
    scores: Scores  # [K] their scores
    target_scores: Sequence[float]  # Score of each target
    score_rows: Callable[[Sequence[int]], Sequence[float]]  # Scores any rows [n] for this query


class Searcher(Protocol):
    """A way to find candidates in a corpus of N passages."""

    name: str  # what the report calls it

    def __len__(self) -> int:
        """Return N."""

    def search(self, queries: Sequence[Query], targets: Sequence[Sequence[Target]], depth: int) -> Iterator[Retrieved]:
        """Yield, query by query, up to K = ``depth`` best passages and the scores of that query's targets."""


class MiningEncoder(QueryEncoder, PassageEncoder, Protocol):
    """What mining needs of a model: vectors for both sides."""


class Bm25Searcher:
    """Candidates by the words they share with the query."""

    name = "bm25"

    def __init__(self, passages: Iterable[Passage], *, language: str = "en") -> None:
        self._index = Bm25Index.build(passages, language=language)

    def __len__(self) -> int:
        return len(self._index)

    def search(self, queries: Sequence[Query], targets: Sequence[Sequence[Target]], depth: int) -> Iterator[Retrieved]:
        """See :meth:`Searcher.search`; passages without a word of the query are not returned."""
        for query, wanted in zip(queries, targets, strict=True):
            scores = self._index.scores(query.text)
            rows = best_matches(scores, depth)
            target_scores = [
                float(scores[target]) if isinstance(target, int) else self._index.score_text(query.text, target)
                for target in wanted
            ]

            def score_rows(asked: Sequence[int], scores: Scores = scores) -> list[float]:
                scored: list[float] = scores[list(asked)].tolist()
                return scored

            yield Retrieved(rows, scores[rows], target_scores, score_rows)


class DenseSearcher:
    """Candidates by the cosine between vectors of an encoder; an approximate index may miss a few."""

    name = "model"

    def __init__(self, index: Index, encoder: MiningEncoder) -> None:
        check_contract(index.store, encoder)
        self._index, self._encoder = index, encoder

    def __len__(self) -> int:
        return len(self._index.store)

    def search(self, queries: Sequence[Query], targets: Sequence[Sequence[Target]], depth: int) -> Iterator[Retrieved]:
        """See :meth:`Searcher.search`; targets that the corpus does not have are encoded."""
        vectors = self._encoder.encode_queries(queries)
        all_scores, all_rows = self._index.search(vectors, depth)
        texts = list(dict.fromkeys(target for wanted in targets for target in wanted if isinstance(target, str)))
        encoded = self._encoder.encode_passages([Passage("", text) for text in texts]) if texts else None
        place = {text: number for number, text in enumerate(texts)}
        for vector, scores, rows, wanted in zip(vectors, all_scores, all_rows, targets, strict=True):

            def score_rows(asked: Sequence[int], vector: Scores = vector) -> list[float]:
                scored: list[float] = (self._index.store.vectors(asked) @ vector).tolist()
                return scored

            known = [target for target in wanted if isinstance(target, int)]
            score_of: dict[Target, float] = dict(zip(known, score_rows(known), strict=True)) if known else {}
            for target in wanted:
                if isinstance(target, str) and encoded is not None:
                    score_of[target] = float(encoded[place[target]] @ vector)
            found = int((rows >= 0).sum())  # missing rows stand last
            yield Retrieved(rows[:found], scores[:found], [score_of[target] for target in wanted], score_rows)


def passages_of_examples(examples: Iterable[TrainingExample]) -> list[Passage]:
    """Return the distinct passages of training examples, positives and negatives, as a corpus.

    A passage has the id that its example gives it, else one made from its text (``text:`` and 16 hex digits).

    Raises:
        DataError: One id names two texts.
        EmptyCorpusError: The examples hold no passages.
    """
    by_id: dict[str, Passage] = {}
    for example in examples:
        positives = with_ids(example.positives, example.positive_ids)
        for text, given in positives + with_ids(example.negatives, example.negative_ids):
            key = text_key(text)
            passage_id = given or f"{TEXT_ID}{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:16]}"
            known = by_id.setdefault(passage_id, Passage(passage_id, text))
            if text is not known.text and key != text_key(known.text):
                raise DataError(
                    f"passage id {passage_id!r} names two texts ({known.text[:40]!r} and {text[:40]!r}); "
                    "give each text its own id, or pass the corpus with --corpus"
                )
    if not by_id:
        raise EmptyCorpusError("the examples hold no passages to mine from; pass a corpus with --corpus")
    return list(by_id.values())


def with_ids(texts: Sequence[str], ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of text and id; "" for a missing id."""
    return list(zip(texts, ids or [""] * len(texts), strict=True))

"""From questions to passages: a run over many queries, or the top hits of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from llama2vec.errors import StoreError
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.index import Index
from llama2vec.retrieve.nearest import Rows, Scores
from llama2vec.retrieve.store import Vectors, VectorStore
from llama2vec.retrieve.words import is_sign, word_spans


class QueryEncoder(Protocol):
    """What searching needs of a model: vectors for queries, and a name for how they are made."""

    @property
    def contract_hash(self) -> str:
        """Hash of everything that decides what the vectors are."""
        ...

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return [Q, D] float32 vectors of L2 norm 1; batches internally."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """One found passage.

    Attributes:
        rank: 1 is the best.
        score: Cosine similarity, or what the mode of search gives.
        passage: With title and text.
    """

    rank: int
    score: float
    passage: Passage


def search(
    index: Index,
    encoder: QueryEncoder,
    queries: Sequence[Query],
    *,
    depth: int = 100,
    tag: str = "llama2vec",
    exclude_same_id: bool = False,
) -> Run:
    """Find the best passages of every query.

    Args:
        index: Over the encoded corpus.
        encoder: Must have the contract that the corpus was encoded under.
        queries: Q of them.
        depth: K, passages per query.
        tag: Name of the system in the run.
        exclude_same_id: Leave out a passage that has its query's id, where queries are themselves passages (ArguAna).

    Raises:
        StoreError: the encoder's contract is another than the index's.
    """
    check_contract(index, encoder)
    if not queries:
        return Run({}, tag=tag)
    scores, rows = index.search(encoder.encode_queries(queries), depth + exclude_same_id)
    results, _ = results_by_id(index.store, queries, scores, rows)
    return Run(first_of_each(results, depth, exclude_same_id=exclude_same_id), tag=tag)


def results_by_id(
    store: VectorStore, queries: Sequence[Query], scores: Scores, rows: Rows
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Name the passages of [Q, K] rows, as :meth:`Index.search` returns them.

    Returns:
        Per query id the scores of its passages, best first; and the row of every passage among them.
    """
    found = np.unique(rows[rows >= 0])
    id_of_row = dict(zip(found.tolist(), store.passage_ids(found), strict=True))
    results = {
        query.id: {id_of_row[row]: score for row, score in zip(best, values, strict=True) if row >= 0}
        for query, best, values in zip(queries, rows.tolist(), scores.tolist(), strict=True)
    }
    return results, {passage_id: row for row, passage_id in id_of_row.items()}


def first_of_each(
    results: Mapping[str, Mapping[str, float]], depth: int, *, exclude_same_id: bool
) -> dict[str, dict[str, float]]:
    """Return the first ``depth`` passages of each query, if asked for without the one that has the query's id."""
    kept = {}
    for query_id, scores in results.items():
        others = (pair for pair in scores.items() if not (exclude_same_id and pair[0] == query_id))
        kept[query_id] = dict(islice(others, depth))
    return kept


def snippet(text: str, query: str, width: int = 240) -> str:
    """Return the part of a text, at most ``width`` characters, that has the most different words of the query.

    >>> snippet("Camels carry loads. The llama is a domesticated camelid of the Andes. It hums.", "llama Andes", 50)
    '…llama is a domesticated camelid of the Andes.…'
    >>> snippet("A  short\\ntext.", "llama")
    'A short text.'
    """
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    wanted = {query[first:last].casefold() for first, last in word_spans(query)}
    found = [(first, last, text[first:last].casefold()) for first, last in word_spans(text)]
    matches = [match for match in found if match[2] in wanted]
    room = max(width - 2, 1)  # an ellipsis on both sides
    begin, best = 0, (0, 0)
    for place, (first, _, _) in enumerate(matches):
        inside = [match for match in matches[place : place + room] if match[1] <= first + room]
        richness = (len({word for _, _, word in inside}), len(inside))
        if richness > best:
            best = richness
            spare = room - (inside[-1][1] - first)
            begin = max(0, min(first - spare // 2, len(text) - room))
    return _cut_at_words(text, begin, begin + room)


def _cut_at_words(text: str, begin: int, end: int) -> str:
    """Cut a text to [begin, end), less the words that would be cut in two, and mark what was left out."""
    part = text[begin:end]
    if end < len(text) and _is_cut(text, end):
        part = part.rpartition(" ")[0] or part
    if begin > 0 and _is_cut(text, begin):
        part = part.partition(" ")[2] or part
    return ("…" if begin > 0 else "") + part.strip() + ("…" if end < len(text) else "")


def _is_cut(text: str, place: int) -> bool:
    """Tell whether a word goes on at a place; scripts without spaces may be cut anywhere."""
    return not any(letter.isspace() or is_sign(letter) for letter in text[place - 1 : place + 1])


def check_contract(index: Index, encoder: QueryEncoder) -> None:
    """Make sure that queries are encoded the way the passages were.

    Raises:
        StoreError: the encoder's contract is another than the index's.
    """
    if index.contract_hash != encoder.contract_hash:
        raise StoreError(
            f"{index.store.path} was encoded under contract {index.contract_hash[:12]} and the query model has "
            f"{encoder.contract_hash[:12]}; search with the model that encoded it, or encode the corpus again"
        )

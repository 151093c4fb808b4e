"""A loaded encoder as the service uses it, and the questions it has embedded for a search."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from llama2vec.model.prompt import prompted_texts
from llama2vec.records import Query
from llama2vec.serve.batcher import Encoded, Lane, Side, Vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from llama2vec.model.encoder import Encoder
    from llama2vec.retrieve.sparse import SparseEncoder


class ServedModel:
    """An encoder behind the two calls that the batcher makes, each from a thread of its own.

    Args:
        encoder: The loaded encoder.
        name: What clients call it.
        words: Its view of the vocabulary; None = no sparse search.
    """

    def __init__(self, encoder: Encoder, name: str, words: SparseEncoder | None = None) -> None:
        self.encoder = encoder
        self.name = name
        self.dimension = encoder.dimension
        self.contract_hash = encoder.contract_hash
        self.batch_tokens = encoder.batch_tokens
        self._words = words
        # A tokenizer holds the limit of the call it is in, so two threads cannot share one.
        self._tokenizer = copy.deepcopy(encoder.backbone.tokenizer)

    def count_tokens(self, texts: Sequence[str], lane: Lane) -> list[int]:
        """Return how many tokens the model reads of each text, prompts included."""
        contract = self.encoder.contract
        settings = contract.encoder
        prompt, most = settings.query_prompt, settings.query_max_tokens
        if lane == "passage":
            prompt, most = settings.passage_prompt, settings.passage_max_tokens
        wording = prompt if settings.pooling == "slots" else None
        return [len(ids) for ids in prompted_texts(self._tokenizer, texts, contract.ids, wording, most)]

    def encode(self, texts: Sequence[str], lane: Lane) -> Sequence[Any]:
        """Return one row for each text: its unit vector [D], or its words as [1, W]."""
        if lane == "words":
            assert self._words is not None
            found = self._words.sparse(texts, "query")
            return [found[row : row + 1] for row in range(len(texts))]
        return list(self.encoder.encode_queries(texts) if lane == "query" else self.encoder.encode_passages(texts))


class PreparedQuestions:
    """Stands in for an encoder where the batcher has done its work before: what the model made of the question.

    Searching runs on a thread beside the model's. So it never calls the model, and a search whose client is gone is
    given up while its question still waits.

    Args:
        contract_hash: Of the encoder.
        words: The encoder's view of the vocabulary; None = no sparse search.
    """

    def __init__(self, contract_hash: str, words: SparseEncoder | None = None) -> None:
        self.contract_hash = contract_hash
        self._words = words
        self._made: ContextVar[Mapping[Lane, Encoded]] = ContextVar("what the model made of the question")

    @contextmanager
    def use(self, made: Mapping[Lane, Encoded]) -> Iterator[None]:
        """Answer from this for as long as the context lasts, in this thread alone."""
        token = self._made.set(made)
        try:
            yield
        finally:
            self._made.reset(token)

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return the vector of the question that is searched for, [1, D]."""
        return self._made.get()["query"].vectors

    def sparse(self, texts: Sequence[str], side: Side, /) -> csr_array:
        """Return the words of the question that is searched for, [1, W]."""
        return self._made.get()["words"].rows[0]

    @property
    def hash(self) -> str:
        """Of what decides the words."""
        return self._view.hash

    @property
    def words(self) -> Sequence[str]:
        """What each of the W columns stands for."""
        return self._view.words

    @property
    def language(self) -> str:
        """Of the stop words."""
        return self._view.language

    @property
    def _view(self) -> SparseEncoder:
        assert self._words is not None
        return self._words


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Return the first ``dimensions`` of each vector, at unit length again (Matryoshka, arXiv 2205.13147).

    >>> shortened(np.array([[0.6, 0.0, 0.8]], dtype=np.float32), 2).tolist()
    [[1.0, 0.0]]
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    unit: Vectors = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit

"""A loaded encoder as the service uses it, and the stand-in that searches with vectors made beforehand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama2vec.model.golden import Side
from llama2vec.model.pooling import Vectors
from llama2vec.model.prompt import prompted_texts
from llama2vec.records import Query

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder


class ServedModel:
    """An encoder with the two calls that the batcher makes, each from a thread of its own.

    Args:
        encoder: The loaded encoder.
        name: What clients call it.
    """

    def __init__(self, encoder: Encoder, name: str) -> None:
        self.encoder = encoder
        self.name = name
        self.dimension = encoder.dimension
        self.contract_hash = encoder.contract_hash
        self.batch_tokens = encoder.batch_tokens
        # A tokenizer stores the limit of the current call, so two threads cannot share one.
        self._tokenizer = copy.deepcopy(encoder.backbone.tokenizer)

    def count_tokens(self, texts: Sequence[str], side: Side) -> list[int]:
        """Return how many tokens the model reads of each text, prompts included."""
        contract = self.encoder.contract
        settings = contract.encoder
        prompt, most = settings.query_prompt, settings.query_max_tokens
        if side == "passage":
            prompt, most = settings.passage_prompt, settings.passage_max_tokens
        wording = prompt if settings.pooling == "slots" else None
        return [len(ids) for ids in prompted_texts(self._tokenizer, texts, contract.ids, wording, most)]

    def encode(self, texts: Sequence[str], side: Side) -> Vectors:
        """Return [N, D] unit vectors."""
        return self.encoder.encode_queries(texts) if side == "query" else self.encoder.encode_passages(texts)


class PreparedQuery:
    """Takes the encoder's place in a search whose query vector the batcher has made.

    Searches run on one thread beside the model's: they never call the model, and while a query waits for its vector the
    search can still be cancelled.

    Args:
        contract_hash: The encoder's.
    """

    def __init__(self, contract_hash: str) -> None:
        self.contract_hash = contract_hash
        self.vector: Vectors | None = None
        """[1, D] of the query that is searched for; set by the searching thread."""

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return :attr:`vector`."""
        assert self.vector is not None
        return self.vector


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

"""A stand-in for a model: one dimension per word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama2vec.records import Passage, Query

WORDS = ("llama", "camel", "sheep", "wool", "desert", "andes", "zebra")


class CountingEncoder:
    """Vectors of L2 norm 1 that count words."""

    dimension = len(WORDS)

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self._vectors([passage.text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])

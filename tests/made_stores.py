"""Stores whose vectors are the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama2vec.records import Passage
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store


class TableEncoder:
    """The vector of passage "n" is row n of a table."""

    contract_hash = "c0ffee"

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        self.table = table
        self.dimension = table.shape[1]

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self.table[[int(passage.id) for passage in passages]]


def clustered(count: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(50, width))
    vectors = centres[random.integers(50, size=count)] + 0.3 * random.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def store_of(table: npt.NDArray[np.float32], folder: Path, shard_size: int = 700) -> VectorStore:
    return write_store(
        lambda: (Passage(str(n), "text") for n in range(len(table))),
        TableEncoder(table),
        folder,
        source={},
        shard_size=shard_size,
    )

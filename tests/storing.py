"""A small store for tests: an encoder that needs no model, and a corpus of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama2vec.records import Passage
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store

WIDTH = 8


class HashEncoder:
    """Vectors that depend on nothing but the text."""

    dimension = WIDTH

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash
        self.encoded: list[str] = []

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.encoded += [passage.id for passage in passages]
        rows = [np.frombuffer(hashlib.sha256(p.full_text.encode()).digest()[:WIDTH], np.uint8) for p in passages]
        vectors = np.array(rows, dtype=np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def corpus(count: int = 10) -> Callable[[], Iterator[Passage]]:
    return lambda: (Passage(f"p{n}", f"Body {n} äöü 世界\u2028.", f"Title {n}" if n % 2 else "") for n in range(count))


def write(folder: Path, count: int = 10, **options: object) -> VectorStore:
    settings: dict[str, object] = {"source": {"corpus": "ten", "place": "/ten"}, "shard_size": 4, "total": count}
    return write_store(corpus(count), options.pop("encoder", HashEncoder()), folder, **(settings | options))  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

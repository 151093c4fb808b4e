"""Reuse the vectors of an older store: when a corpus changes, the model reads only the texts that are new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from llama2vec.errors import StoreError
from llama2vec.progress import ProgressReporter
from llama2vec.records import Passage
from llama2vec.retrieve.batches import encoder_batches
from llama2vec.retrieve.store import PassageEncoder, Vectors, VectorStore

_CHUNK = 8192


class KnownVectors:
    """An encoder that asks a store first, and the model for what the store lacks.

    A passage is known where the store has its very title and text, under any id. Known vectors are copied, after the
    checksums of their files; in another batch the model might have given them another last bit.

    Args:
        encoder: The model.
        store: An earlier state of the corpus. 16 bytes a passage are kept of it.
        dtype: Of the store that is to be written.

    Attributes:
        reused: How many vectors came from the store so far.

    Raises:
        StoreError: The store was encoded under another contract, or is less exact than the new one.
        CorruptShardError: A file of the store is not what was written.
    """

    def __init__(
        self, encoder: PassageEncoder, store: VectorStore, *, dtype: Literal["float32", "float16"] = "float32"
    ) -> None:
        if store.contract_hash != encoder.contract_hash:
            theirs, ours = store.contract_hash[:12], encoder.contract_hash[:12]
            problem = f"{store.path} was encoded under contract {theirs} and this model has {ours}"
            raise StoreError(f"{problem}; leave out --reuse, or give the model of that store")
        if store.dtype == "float16" and dtype == "float32":
            raise StoreError(
                f"{store.path} has float16 vectors and the new store float32; add --half, or leave out --reuse"
            )
        self._encoder, self._store = encoder, store
        self.reused = 0
        keys = self._keys_of_store()
        self._rows = np.argsort(keys, kind="stable")
        self._keys = keys[self._rows]

    @property
    def dimension(self) -> int:
        """Width D of the vectors."""
        return self._encoder.dimension

    @property
    def contract_hash(self) -> str:
        """Hash of everything that decides what the vectors are."""
        return self._encoder.contract_hash

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, D] float32 vectors, the store's where it has the text."""
        vectors = np.empty((len(passages), self.dimension), dtype=np.float32)
        for rows, found in self.passage_batches(passages):
            vectors[list(rows)] = found
        return vectors

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors): what the store has, then the model's batches over the rest but ``skip``."""
        stored = self._known_rows(passages)
        known, new = np.flatnonzero(stored >= 0), np.flatnonzero(stored < 0)
        if len(known):
            self.reused += len(known)
            yield known.tolist(), self._store.vectors(stored[known])
        if len(new):
            texts = [passages[row] for row in new.tolist()]
            for rows, vectors in encoder_batches(self._encoder, texts, None if skip is None else skip[new]):
                yield new[list(rows)].tolist(), vectors

    def _known_rows(self, passages: Sequence[Passage]) -> npt.NDArray[np.int64]:
        """Return the store's row [N] of each passage, -1 where it has none."""
        keys = _keys(passages)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        rows = np.where(self._keys[places] == keys, self._rows[places], -1)
        there = np.flatnonzero(rows >= 0)
        # Two texts may share a hash of 64 bits; those that do are read again.
        for place, passage in zip(there.tolist(), self._store.passages(rows[there]), strict=True):
            if passage.full_text != passages[place].full_text:
                rows[place] = -1
        return rows

    def _keys_of_store(self) -> npt.NDArray[np.uint64]:
        total = len(self._store)
        keys = np.empty(total, dtype=np.uint64)
        with ProgressReporter("reading what is known", "passages") as progress:
            progress.start(total)
            for first in range(0, total, _CHUNK):
                found = self._store.passages(range(first, min(first + _CHUNK, total)))
                keys[first : first + len(found)] = _keys(found)
                progress.advance(len(found))
        return keys


def _keys(passages: Sequence[Passage]) -> npt.NDArray[np.uint64]:
    texts = (passage.full_text.encode(errors="surrogatepass") for passage in passages)
    digests = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)

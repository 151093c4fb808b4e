"""Vectors that need not be computed again: those of an older store, and those of a shard that was interrupted."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from llama2vec.data.corpus.rows import passage_line
from llama2vec.errors import StoreError
from llama2vec.files import write_atomic
from llama2vec.records import Passage, VectorFormat
from llama2vec.retrieve.store.number_format import check_reusable, compute_dtype
from llama2vec.retrieve.store.reader import PassageEncoder, Vectors, VectorStore
from llama2vec.terminal import ProgressReporter

logger = logging.getLogger(__name__)

_CHUNK = 8192
_SAVE_SECONDS = 60.0


@runtime_checkable
class BatchwiseEncoder(Protocol):
    """An encoder that gives its vectors batch by batch."""

    dimension: int

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors) of batches that only the passages decide, but those that are all ``skip``."""

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, D] float32 vectors: those of all batches, each in its rows."""
        vectors = np.empty((len(passages), self.dimension), dtype=np.float32)
        for rows, found in self.passage_batches(passages):
            vectors[list(rows)] = found
        return vectors


class KnownVectors(BatchwiseEncoder):
    """An encoder that asks an earlier store of the corpus first, and the model for what that store lacks.

    A passage is known if the store has its very title and text, under any id. Known vectors are copied after their
    checksums; in another batch the model might have given them another last bit. Memory: 16 bytes per stored passage.

    Raises:
        StoreError: The store has no vectors, was encoded under another contract, was computed in another number format
            (unless ``mixes``, which warns instead), is less exact than ``dtype``, or is damaged.
    """

    def __init__(
        self, encoder: PassageEncoder, store: VectorStore, *, dtype: VectorFormat = "float32", mixes: bool = False
    ) -> None:
        if not store.has_vectors:
            raise StoreError(f"{store.path} has no vectors to reuse; leave out --reuse")
        if store.contract_hash != encoder.contract_hash:
            theirs, ours = store.contract_hash[:12], encoder.contract_hash[:12]
            problem = f"{store.path} was encoded under contract {theirs} and this model has {ours}"
            raise StoreError(f"{problem}; leave out --reuse, or give the model of that store")
        if not mixes:
            check_reusable(store, encoder)
        exactness = get_args(VectorFormat)
        if exactness.index(store.dtype) > exactness.index(dtype):
            option = "--half" if store.dtype == "float16" else "--int8"
            problem = f"{store.path} has {store.dtype} vectors and the new store {dtype}"
            raise StoreError(f"{problem}; add {option}, or leave out --reuse")
        self.encoder, self._store = encoder, store
        self.dimension, self.contract_hash = encoder.dimension, encoder.contract_hash
        self.reused = self._encoded = 0  # vectors that came from the store, and from the encoder, so far
        self._is_told = False  # of another number format
        self._guard = threading.Lock()
        self._counted: tuple[Sequence[Passage], npt.NDArray[np.int64]] | None = None  # A batch that is encoded next
        keys = self._keys_of_store()
        self._rows = np.argsort(keys, kind="stable")
        self._keys = keys[self._rows]

    @property
    def dtype(self) -> str:
        """Number format in which all vectors so far were computed, "" where it is not known or not one."""
        theirs = self._store.compute_dtype
        ours = compute_dtype(self.encoder) if self._encoded else theirs
        return theirs if ours == theirs else "" if self.reused else ours

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors): what the store has, then the model's batches over the rest but ``skip``."""
        counted, self._counted = self._counted, None
        stored = counted[1] if counted and counted[0] is passages else self._known_rows(passages)
        known, new = np.flatnonzero(stored >= 0), np.flatnonzero(stored < 0)
        if len(known):
            with self._guard:
                self.reused += len(known)
            self._tell_of_another_format()
            yield known.tolist(), self._store.vectors(stored[known])
        if len(new):
            texts = [passages[row] for row in new.tolist()]
            for rows, vectors in encoder_batches(self.encoder, texts, None if skip is None else skip[new]):
                with self._guard:
                    self._encoded += len(rows)
                self._tell_of_another_format()
                yield new[list(rows)].tolist(), vectors

    def _tell_of_another_format(self) -> None:
        """Warn, once, where vectors of two number formats come together."""
        theirs, ours = self._store.compute_dtype, compute_dtype(self.encoder)
        mixes = self.reused and self._encoded and theirs and ours and theirs != ours
        if mixes and not self._is_told:
            self._is_told = True
            logger.warning(
                "%s: its vectors were computed in %s, and those of new passages are computed in %s; to compute all in "
                "one number format, interrupt and pass --dtype %s",
                self._store.path, theirs, ours, theirs,
            )  # fmt: skip

    def count_cut(self, passages: Sequence[Passage]) -> int | None:
        """Return how many passages the encoder does not read to their end, known or not; None if it does not say."""
        if self._store.cuts_nothing:  # Then none of those that it has is cut, and they need not be tokenized
            self._counted = passages, (rows := self._known_rows(passages))
            passages = [passages[row] for row in np.flatnonzero(rows < 0).tolist()]
        return count_cut(self.encoder, passages)

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
        with ProgressReporter("reading the earlier store", "passage") as progress:
            progress.start(total)
            for first in range(0, total, _CHUNK):
                found = self._store.passages(range(first, min(first + _CHUNK, total)))
                keys[first : first + len(found)] = _keys(found)
                progress.advance(len(found))
        return keys


def reusing(encoder: PassageEncoder, folder: Path, dtype: VectorFormat = "float32") -> PassageEncoder | KnownVectors:
    """Return an encoder that first asks the store which its vectors will replace, where that one is whole and fits."""
    try:
        store = VectorStore.open(folder, verify=True)
        return KnownVectors(encoder, store, dtype=dtype)
    except StoreError:
        return encoder


def _keys(passages: Sequence[Passage]) -> npt.NDArray[np.uint64]:
    texts = (passage.full_text.encode(errors="surrogatepass") for passage in passages)
    digests = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def encoder_batches(
    encoder: PassageEncoder, batch: Sequence[Passage], known: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[Sequence[int], Vectors]]:
    """Yield (rows, [n, D] vectors) as the encoder gives them, but batches that are all ``known`` [N]."""
    if isinstance(encoder, BatchwiseEncoder):
        yield from encoder.passage_batches(batch, known.copy() if known is not None and known.any() else None)
    else:
        yield range(len(batch)), np.asarray(encoder.encode_passages(batch))


@runtime_checkable
class LimitedReader(Protocol):
    """An encoder that reads only the beginning of a long passage, and may say of how many."""

    def count_cut(self, passages: Sequence[Passage]) -> int | None:
        """Return how many passages are longer than the encoder reads of them; None = it cannot say."""


def count_cut(encoder: PassageEncoder, passages: Sequence[Passage]) -> int | None:
    """Return how many passages an encoder does not read to their end; None for one that does not say."""
    return encoder.count_cut(passages) if isinstance(encoder, LimitedReader) else None


class PartialShard:
    """The vectors of a shard so far, on the disk as of a minute ago."""

    def __init__(self, path: Path, batch: Sequence[Passage], dimension: int) -> None:
        self._path, self._saved = path, time.monotonic()
        self._passages = hashlib.sha256(b"".join(map(passage_line, batch))).hexdigest()
        self.known = np.zeros(len(batch), dtype=np.bool_)  # [N] True where there is a vector
        self.vectors = np.zeros((len(batch), dimension), dtype=np.float32)  # [N, D]
        self._load()

    def add(self, rows: Sequence[int], vectors: Vectors) -> int:
        """Take in a batch; return how many of its rows are new."""
        places = list(rows)
        new = int((~self.known[places]).sum())
        self.vectors[places], self.known[places] = vectors, True
        if time.monotonic() - self._saved >= _SAVE_SECONDS and not self.known.all():
            self.save()
        return new

    def save(self) -> None:
        """Write down what is known, if anything is."""
        if self.known.any():
            content = io.BytesIO()
            np.savez(content, passages=self._passages, known=self.known, vectors=self.vectors[self.known])
            write_atomic(self._path, content.getvalue())
        self._saved = time.monotonic()

    def _load(self) -> None:
        """Resume from what an interrupted writer left, else start over. The zip format has its own checksums."""
        try:
            with np.load(self._path) as found:
                if str(found["passages"]) == self._passages:
                    self.vectors[found["known"]], self.known = found["vectors"], found["known"]
        except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile):
            self.known[:] = False

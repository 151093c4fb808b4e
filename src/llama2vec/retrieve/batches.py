"""Vectors of one shard, batch by batch, so that an interrupted shard need not begin anew."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llama2vec.files import write_atomic
from llama2vec.records import Passage
from llama2vec.retrieve.store import PassageEncoder, Vectors

_SAVE_SECONDS = 60.0


@runtime_checkable
class BatchwiseEncoder(Protocol):
    """An encoder that gives its vectors batch by batch."""

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors) of batches that depend on the passages alone, but those that are all ``skip``."""
        ...


def encoder_batches(
    encoder: PassageEncoder, batch: Sequence[Passage], known: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[Sequence[int], Vectors]]:
    """Yield (rows, [n, D] vectors) as the encoder gives them, but batches that are all ``known`` [N]."""
    if isinstance(encoder, BatchwiseEncoder):
        yield from encoder.passage_batches(batch, known.copy() if known is not None and known.any() else None)
    else:
        yield range(len(batch)), np.asarray(encoder.encode_passages(batch))


class PartialShard:
    """The vectors of a shard so far, on the disk as of a minute ago.

    Attributes:
        known: [N] True where there is a vector.
        vectors: [N, D] float32.
    """

    def __init__(self, path: Path, batch: Sequence[Passage], dimension: int) -> None:
        self._path, self._saved = path, time.monotonic()
        self._passages = hashlib.sha256(b"".join(map(passage_line, batch))).hexdigest()
        self.known = np.zeros(len(batch), dtype=np.bool_)
        self.vectors = np.zeros((len(batch), dimension), dtype=np.float32)
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
        """Take what an interrupted writer left; anything else begins anew. The zip format has its own checksums."""
        try:
            with np.load(self._path) as found:
                if str(found["passages"]) == self._passages:
                    self.vectors[found["known"]], self.known = found["vectors"], found["known"]
        except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile):
            self.known[:] = False


def passage_line(passage: Passage) -> bytes:
    """Return a passage as one line of a shard."""
    fields = {"id": passage.id, "title": passage.title, "text": passage.text}
    try:
        return (json.dumps(fields, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        return (json.dumps(fields) + "\n").encode()

"""Vectors on the disk as soon as they are made, by text: what an interrupted ``sync`` need not make again.

A journal is a line of JSON (contract, width, number format) and records of one size: the hash of a text, its vector, a
checksum. What a kill cut off, or a power cut garbled, is dropped when the journal is opened again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.records import Passage
from llama2vec.retrieve.store.number_format import compute_dtype, formatted
from llama2vec.retrieve.store.reader import PassageEncoder, Vectors, check_vectors
from llama2vec.retrieve.store.reuse import BatchwiseEncoder, count_cut, encoder_batches

logger = logging.getLogger(__name__)

_FORMAT, _LONGEST_HEAD = "llama2vec-vectors", 1000
_KEY_BYTES, _CHECKSUM_BYTES = 16, 4


class Journal(BatchwiseEncoder):
    """An encoder that writes down what it makes, and looks there first.

    Args:
        encoder: Makes the vectors.
        path: The journal; one of another contract or number format is kept beside it until :meth:`remove`.
    """

    def __init__(self, encoder: PassageEncoder, path: Path) -> None:
        self._encoder, self._path = encoder, path
        self.dimension, self.contract_hash = encoder.dimension, encoder.contract_hash
        self.encoded = 0  # texts that the encoder read so far
        self._record_bytes = _KEY_BYTES + 4 * self.dimension + _CHECKSUM_BYTES
        head = {"format": _FORMAT, "contract": self.contract_hash, "dimension": self.dimension}
        self._unformatted = _line(head)  # As earlier versions wrote it
        self._head = _line(formatted(head, compute_dtype(encoder)))
        self._places: dict[bytes, int] = {}
        self._make_way()
        self._file = path.open("r+b" if path.is_file() and not path.is_symlink() else "w+b")
        self._open()

    @property
    def dtype(self) -> str:
        """Number format in which the encoder computes, "" if a journal of an earlier version is continued."""
        return "" if self._head == self._unformatted else compute_dtype(self._encoder)

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors): what the journal has, then the encoder's batches over the rest but ``skip``."""
        keys = [_key(passage) for passage in passages]
        known = [row for row, key in enumerate(keys) if key in self._places]
        new = [row for row, key in enumerate(keys) if key not in self._places]
        if known:
            yield known, np.stack([self._vector(keys[row]) for row in known])
        skipped = None if skip is None else skip[new]
        for rows, vectors in encoder_batches(self._encoder, [passages[row] for row in new], skipped) if new else ():
            places = [new[row] for row in rows]
            check_vectors(vectors, lambda row: f"the vector of passage {passages[places[row]].id!r}")  # noqa: B023
            self._append([keys[row] for row in places], vectors)
            yield places, vectors

    def count_cut(self, passages: Sequence[Passage]) -> int | None:
        """Return how many passages the encoder does not read to their end; None if it does not say."""
        return count_cut(self._encoder, passages)

    def close(self) -> None:
        """Keep the journal for the next time, unless it holds no vector yet."""
        self._file.close()
        if not self._places:
            self._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the journal, and those of other contracts: a store has all vectors now."""
        self._file.close()
        remove_journals(self._path)

    def _make_way(self) -> None:
        """Put the journal of another contract or number format aside, and bring back the one that fits."""
        if self._path.is_file() and not self._path.is_symlink():
            with self._path.open("rb") as file:
                head = file.readline(_LONGEST_HEAD)
                holds_vectors = bool(file.read(1))
            if head == self._unformatted:
                self._head = head
            if head != self._head and holds_vectors and _is_head(head):
                self._path.replace(_aside(self._path, head))
                logger.warning(
                    "an interrupted sync made vectors with another model or other settings of it; they are kept until "
                    "a sync succeeds: to use them, interrupt this one and rerun that one"
                )
        for head in (self._unformatted, self._head):
            kept = _aside(self._path, head)
            if kept.is_file() and not kept.is_symlink():
                kept.replace(self._path)
                self._head = head

    def _open(self) -> None:
        """Find the whole records, and cut off what follows them."""
        end = 0
        if self._file.read(len(self._head)) == self._head:
            end = len(self._head)
            while (key := self._checked(self._file.read(self._record_bytes))) is not None:
                self._places[key] = end
                end += self._record_bytes
        self._file.seek(end)
        self._file.truncate()
        if not end:
            self._file.write(self._head)

    def _checked(self, record: bytes) -> bytes | None:
        content, checksum = record[:-_CHECKSUM_BYTES], record[-_CHECKSUM_BYTES:]
        whole = len(record) == self._record_bytes and zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big") == checksum
        return content[:_KEY_BYTES] if whole else None

    def _vector(self, key: bytes) -> Vectors:
        self._file.seek(self._places[key] + _KEY_BYTES)
        return np.frombuffer(self._file.read(4 * self.dimension), dtype="<f4").astype(np.float32)

    def _append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        place = self._file.seek(0, os.SEEK_END)
        for key, vector in zip(keys, np.asarray(vectors, dtype="<f4"), strict=True):
            content = key + vector.tobytes()
            self._file.write(content + zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big"))
            self._places[key] = place
            place += self._record_bytes
        self._file.flush()
        self.encoded += len(keys)


def kept_journals(path: Path) -> list[Path]:
    """Return the journals of other contracts that lie beside a journal."""
    named = re.compile(re.escape(path.name) + r"\.of-[0-9a-f]{16}")
    folder = path.parent
    return sorted(one for one in folder.iterdir() if named.fullmatch(one.name)) if folder.is_dir() else []


def remove_journals(path: Path) -> None:
    """Delete a journal and those of other contracts beside it; nothing where there are none."""
    for one in (path, *kept_journals(path)):
        one.unlink(missing_ok=True)


def _aside(path: Path, head: bytes) -> Path:
    return path.with_name(f"{path.name}.of-{hashlib.blake2b(head, digest_size=8).hexdigest()}")


def _line(head: Mapping[str, Any]) -> bytes:
    return (json.dumps(head) + "\n").encode()


def _is_head(line: bytes) -> bool:
    try:
        facts = json.loads(line)
    except ValueError:
        return False
    return isinstance(facts, dict) and facts.get("format") == _FORMAT


def _key(passage: Passage) -> bytes:
    return hashlib.blake2b(passage.full_text.encode(errors="surrogatepass"), digest_size=_KEY_BYTES).digest()

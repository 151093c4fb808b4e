"""Read a store: a folder of passage vectors and texts, in shards.

A store of N passages of width D, cut into shards of ``shard_size`` passages::

    store.json                    what made it; rows, bytes and sha256 of every shard; written last of all
    shard-00000.vectors.npy       [n, D] float32, float16 or int8, memory-mapped by the readers
    shard-00000.passages.jsonl    one {"id", "title", "text"} per line, with "place" and "fields" where it has them
    shard-00000.offsets.npy       [n + 1] int64, the byte at which each line begins
    shard-00000.json              rows, bytes and sha256 of the three; written after them: a shard with it is done

A store without vectors has the dimension 0, no contract and no vectors files; BM25 searches it.

Whoever reads a file compares its checksum first, once for each state of the file: a flipped bit, or a store that was
replaced under an open reader, is an error and never a wrong hit.
"""

from __future__ import annotations

import json
import mmap
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llama2vec.artifact import bring_back, read_object
from llama2vec.data.corpus.rows import passage_of
from llama2vec.errors import CorruptShardError, StoreError
from llama2vec.files import file_sha256
from llama2vec.records import Passage, VectorFormat
from llama2vec.records import Vectors as Vectors

STORE_FILE, PLAN_FILE = "store.json", "writing.json"
FORMAT = {"format": "llama2vec-store", "version": 1}
VECTORS_PART, TEXT_PARTS = "vectors.npy", ("passages.jsonl", "offsets.npy")
_TICK_NANOSECONDS = 20_000_000
_READ_PASSAGES = 2048
_verified: set[tuple[str, tuple[int, ...]]] = set()


class PassageEncoder(Protocol):
    """What a store needs from a model: vectors for passages, and a hash of how they are made."""

    @property
    def dimension(self) -> int:
        """Width D of the vectors."""

    @property
    def contract_hash(self) -> str:
        """Hash of everything that decides what the vectors are."""

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, D] float32 vectors of L2 norm 1; batches internally."""


@contextmanager
def read_errors() -> Iterator[None]:
    """Turn the system's refusal to read a file of an index or store into a one-line StoreError that names the file."""
    try:
        yield
    except OSError as error:
        file = error.filename or "a file of the index or its store"
        raise StoreError(f"{file} cannot be read ({error.strerror or error}); check permissions and disk") from error


class VectorStore:
    """A finished store: vectors and passages by row, read from disk when needed."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        settings = manifest["settings"]
        self.path = path
        self.dimension: int = settings["dimension"]
        self.contract_hash: str = settings["contract_hash"]  # queries need the same contract; "" without vectors
        self.source: Mapping[str, object] = settings["source"]  # what the writer said about corpus and model
        self.dtype: VectorFormat = settings["dtype"]  # of the vectors on disk
        # In which the model computed them; "" = of an earlier version, or not all in one
        self.compute_dtype: str = settings.get("compute_dtype", "")
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._first_rows = np.array([shard["first_row"] for shard in self._shards], dtype=np.int64)
        self._rows: int = manifest["passages"]
        begins = np.cumsum([0, *(shard["rows"] for shard in self._shards)]).tolist()
        places = [(shard["shard"], shard["first_row"]) for shard in self._shards]
        if places != list(enumerate(begins[:-1])) or begins[-1] != self._rows:
            raise ValueError("its shards do not follow each other")
        self._files: dict[str, tuple[int, str]] = {
            name: (expected["bytes"], expected["sha256"])
            for shard in self._shards
            for name, expected in shard["files"].items()
        }

    @classmethod
    @read_errors()
    def open(cls, path: str | Path, *, verify: bool = False) -> VectorStore:
        """Open a finished store; the size of every file is checked.

        With ``verify`` every file is read at once, and not only when it is needed.

        Raises:
            StoreError: The folder holds no finished store.
            CorruptShardError: A file is missing or has another size (with ``verify``: another checksum).
        """
        path = Path(path)
        bring_back(path)
        manifest = read_object(path / STORE_FILE)
        if manifest is None:
            raise StoreError(_why_not_a_store(path))
        if manifest.get("format") != FORMAT["format"]:
            raise StoreError(
                f"{path} is not a vector store of llama2vec; give the folder that `llama2vec encode` wrote"
            )
        if manifest.get("version") != FORMAT["version"]:
            problem = (
                f"{path} has format version {manifest.get('version')} and this llama2vec reads {FORMAT['version']}"
            )
            raise StoreError(f"{problem}; use the llama2vec that wrote it, or encode again")
        try:
            store = cls(path.absolute(), manifest)  # the process may change its folder
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{path / STORE_FILE} lacks what a store must say ({error}); restore it or encode to another folder"
            ) from error
        for name in store._files:
            store._check_size(name)
        if verify:
            store.verify()
        return store

    def __len__(self) -> int:
        return self._rows

    @property
    def has_vectors(self) -> bool:
        """Whether the passages were encoded; otherwise BM25 alone searches them."""
        return self.dimension > 0

    @property
    def how_to_add_vectors(self) -> str:
        """What to do to search a store without vectors by meaning too, as the end of a message."""
        known, place = self.source, self.path
        if not (follows := known.get("add_vectors")):
            command = ["encode", "MODEL", str(known.get("corpus", "CORPUS")), "-o", str(place), "--overwrite"]
        else:  # An index that follows a folder: named by where it was opened, because it may have moved
            command = ["sync", str(known.get("folder", "FOLDER")), str(place.parent)]
            command += ["--model", "MODEL"] if "--model" in str(follows) else []
        return f"`{shlex.join(['llama2vec', *command])}`"

    @property
    def cut(self) -> int:
        """How many passages are longer than the model reads: their vectors are those of their beginnings."""
        return sum(shard.get("cut", 0) for shard in self._shards)

    @property
    def cuts_nothing(self) -> bool:
        """Whether the model reads every passage to its end; False where a shard does not say."""
        return all(shard.get("cut") == 0 for shard in self._shards)

    @property
    def ids(self) -> Sequence[str]:
        """Passage ids by row, read when asked for."""
        return _PassageIds(self)

    @property
    def has_fields(self) -> bool:
        """Whether any passage has a place or fields; searches the lines without parsing them."""
        for shard in self._shards:
            file = self._checked(f"{shard_name(shard['shard'])}.passages.jsonl")
            with file.open("rb") as lines, mmap.mmap(lines.fileno(), 0, access=mmap.ACCESS_READ) as text:
                # Inside a text, the quotes would be escaped.
                if any(text.find(mark) >= 0 for mark in (b', "place": {', b', "fields": {')):
                    return True
        return False

    def shards(self) -> Iterator[tuple[int, npt.NDArray[np.floating[Any]]]]:
        """Yield (first row, [n, D] vectors) of each shard, in row order; memory-mapped but those of an int8 store."""
        for shard in self._shards:
            yield shard["first_row"], as_floats(self._shard_vectors(shard["shard"]))

    def vectors(self, rows: npt.ArrayLike) -> Vectors:
        """Return the vectors [n, D] float32 of these rows [n], in their order."""
        wanted = self._checked_rows(rows)
        found = np.empty((len(wanted), self.dimension), dtype=np.float32)
        for shard, places, local in self._by_shard(wanted):
            found[places] = as_floats(self._shard_vectors(shard)[local])
        return found

    def passage(self, row: int) -> Passage:
        """Return the passage of one row."""
        return self.passages([row])[0]

    def passages(self, rows: npt.ArrayLike) -> list[Passage]:
        """Return the passages of these rows [n], in their order; each shard is opened once."""
        return [passage_of(line) for line in self._lines(rows)]

    def passage_ids(self, rows: npt.ArrayLike) -> list[str]:
        """Return the ids of these rows [n], in their order; each shard is opened once."""
        return [line["id"] for line in self._lines(rows)]

    def verify(self) -> None:
        """Read every file; raise a CorruptShardError that names the first one that differs and how to repair it."""
        for name in self._files:
            self._checked(name)

    def check_vectors(self) -> None:
        """Raise a StoreError that says how to add vectors if there are none."""
        if not self.has_vectors:
            raise StoreError(f"{self.path} has no vectors; add them with {self.how_to_add_vectors}")

    @read_errors()
    def _checked(self, name: str) -> Path:
        """Return a file after checking it against ``store.json``; it is checked again only after it changes."""
        file, (_, sha256) = self.path / name, self._files[name]
        self._check_size(name)
        if not is_intact(file, sha256):
            raise CorruptShardError(
                f"{file} has another checksum than {STORE_FILE} says: it is damaged, or the store was replaced "
                f"after it was opened; {_how_to_repair(file)}"
            )
        return file

    def _check_size(self, name: str) -> None:
        file, (expected, _) = self.path / name, self._files[name]
        size = file.stat().st_size if os.path.exists(file) else None
        if size != expected:
            problem = "is missing" if size is None else f"has {size:,} bytes instead of {expected:,}"
            raise CorruptShardError(f"{file} {problem}; {_how_to_repair(file)}")

    @read_errors()
    def _shard_vectors(self, shard: int) -> npt.NDArray[Any]:
        self.check_vectors()
        file = self._checked(f"{shard_name(shard)}.vectors.npy")
        try:
            vectors: npt.NDArray[Any] = np.load(file, mmap_mode="r")
            if (vectors.shape, vectors.dtype) != ((self._shards[shard]["rows"], self.dimension), np.dtype(self.dtype)):
                raise ValueError(vectors.shape)
        except ValueError as error:
            raise CorruptShardError(f"{file} cannot be read; {_how_to_repair(file)}") from error
        return vectors

    @read_errors()
    def _lines(self, rows: npt.ArrayLike) -> list[dict[str, Any]]:
        wanted = self._checked_rows(rows)
        found: list[dict[str, Any]] = [{}] * len(wanted)
        # Files are opened per call: a large store has more shards than a process may hold open.
        for shard, places, local in self._by_shard(wanted):
            name = shard_name(shard)
            texts, starts = self._checked(f"{name}.passages.jsonl"), self._checked(f"{name}.offsets.npy")
            try:
                offsets = np.load(starts)
                with texts.open("rb") as lines:
                    for place, begin, end in zip(places, offsets[local], offsets[local + 1], strict=True):
                        lines.seek(begin)
                        found[place] = json.loads(lines.read(end - begin))
            except (ValueError, IndexError) as error:
                raise CorruptShardError(f"{texts} cannot be read; {_how_to_repair(texts)}") from error
        return found

    def _checked_rows(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self._rows):
            raise IndexError(f"rows must lie in 0..{self._rows - 1}, not {wanted.min()}..{wanted.max()}")
        return wanted

    def _by_shard(
        self, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield (shard, places in ``rows``, rows within the shard) of each shard that is touched."""
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        order = np.argsort(shards, kind="stable")
        touched, begins = np.unique(shards[order], return_index=True)
        for shard, places in zip(touched.tolist(), np.split(order, begins[1:]), strict=bool(len(touched))):
            yield shard, places, rows[places] - self._first_rows[shard]


class _PassageIds(Sequence[str]):
    """The ids of a store as a sequence that holds none of them."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, place: int | slice) -> Any:
        rows = range(len(self))[place]
        return self._store.passage_ids(rows) if isinstance(rows, range) else self._store.passage_ids([rows])[0]

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), 8192):
            yield from self[begin : begin + 8192]


def store_passages(store: VectorStore, rows: range | None = None) -> Iterator[Passage]:
    """Yield the passages of a store in row order, all or those of ``rows``, a few thousand in memory at a time."""
    rows = range(len(store)) if rows is None else rows
    for begin in range(rows.start, rows.stop, _READ_PASSAGES):
        yield from store.passages(range(begin, min(begin + _READ_PASSAGES, rows.stop)))


def store_sha256(store: VectorStore) -> str:
    """Return the hash of a store's manifest, which holds the checksums of all its files."""
    return file_sha256(store.path / STORE_FILE)


def as_stored(vectors: Vectors, dtype: VectorFormat) -> npt.NDArray[Any]:
    """Return unit vectors [N, D] in the format of a store.

    The largest number of each vector becomes ±127 in int8, so that its codes point in its direction: no scale is kept.
    """
    if dtype == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        scale: Vectors = 127 / np.maximum(largest, np.finfo(np.float32).tiny)
        codes: npt.NDArray[np.int8] = np.rint(vectors * scale).astype(np.int8)
        return codes
    return np.ascontiguousarray(vectors, dtype=np.dtype(dtype).newbyteorder("<"))


def as_floats(stored: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return what :func:`as_stored` made, at unit length where it is int8.

    >>> as_floats(as_stored(np.array([[0.6, -0.8]], dtype=np.float32), "int8")).astype(float).round(3).tolist()
    [[0.599, -0.801]]
    """
    if stored.dtype != np.int8:
        return stored
    codes = stored.astype(np.float32)
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    unit: Vectors = codes / np.maximum(lengths, 1)
    return unit


def check_vectors(vectors: Vectors, name_of: Callable[[int], str]) -> None:
    """Raise a StoreError that names the first vector [N, D] that is not finite."""
    faulty = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(faulty):
        raise StoreError(f"{name_of(int(faulty[0]))} is not finite; check the model, or encode in float32")


def is_intact(file: Path, sha256: str) -> bool:
    """Return whether a file is there with this checksum; each of its states is hashed once."""
    if not file.is_file():
        return False
    now, status = time.time_ns(), file.stat()
    state = (sha256, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    if state in _verified:
        return True
    if file_sha256(file) != sha256:
        return False
    # Two writes within one tick of the file system's clock leave the same time: such a state is hashed again.
    if abs(now - status.st_mtime_ns) > _TICK_NANOSECONDS:
        _verified.add(state)
    return True


def shard_name(number: int) -> str:
    """Return what the names of a shard's files begin with."""
    return f"shard-{number:05d}"


def _how_to_repair(file: Path) -> str:
    return f"delete {file.parent / file.name.partition('.')[0]}.* and run the same encode command again"


def _why_not_a_store(path: Path) -> str:
    if os.path.lexists(path / STORE_FILE):
        return f"{path / STORE_FILE} cannot be read as a JSON object; restore it or encode to another folder"
    plan = read_object(path / PLAN_FILE)
    if plan is None:
        return f"no vector store at {path}; make one with `llama2vec encode`"
    done, expected = len(list(path.glob("shard-*.json"))), plan.get("expected_passages")
    size = plan.get("settings", {}).get("shard_size")
    of_all = f" of {-(-expected // size)}" if expected and size else ""
    return f"{path} is not finished: {done}{of_all} shards; run the same encode command again"

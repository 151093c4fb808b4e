"""A folder of passage vectors and texts, written shard by shard: resumable, shared by processes, checksummed.

A store of N passages of width D, cut into shards of ``shard_size`` passages::

    store.json                    what made it; rows, bytes and sha256 of every shard; written last of all
    shard-00000.vectors.npy       [n, D] float32 or float16, memory-mapped by the readers
    shard-00000.passages.jsonl    one {"id", "title", "text"} per line
    shard-00000.offsets.npy       [n + 1] int64, the byte at which each line begins
    shard-00000.json              rows, bytes and sha256 of the three; written after them: a shard with it is done

and, only while it is written, ``writing.json`` (the settings that all writers share), ``plan.claim`` and
``shard-00000.claim`` (who works on what), and ``*.tmp-*`` (files that are not complete).

Every file is written beside its name, flushed to the disk and moved into place, so that a writer may be killed at
any moment: the same call resumes, and the finished store has the bytes an uninterrupted one would have had.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
import numpy.typing as npt

from llama2vec.errors import ConfigError, CorruptShardError, EmptyCorpusError, OutputExistsError, StoreError
from llama2vec.files import file_sha256, sync_folder, write_atomic, write_hashed
from llama2vec.manifest import first_difference
from llama2vec.progress import ProgressReporter
from llama2vec.records import Passage
from llama2vec.retrieve.claims import Claim

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
"""[N, D] float32, one L2-normalized row per text."""

_FORMAT = "llama2vec-store"
_FORMAT_VERSION = 1
_SUFFIXES = ("vectors.npy", "passages.jsonl", "offsets.npy")
_WRITE_BYTES = 1 << 24


class PassageEncoder(Protocol):
    """What a store needs of a model: vectors for passages, and a name for how they are made."""

    @property
    def dimension(self) -> int:
        """Width D of the vectors."""
        ...

    @property
    def contract_hash(self) -> str:
        """Hash of everything that decides what the vectors are."""
        ...

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, D] float32 vectors of L2 norm 1; batches internally."""
        ...


class VectorStore:
    """A finished store: vectors and passages by row, read from disk when asked for.

    Attributes:
        path: The folder.
        dimension: Width D.
        contract_hash: How the vectors were made; queries must be encoded under the same contract.
        source: What the writer said about corpus and model.
        dtype: Of the vectors on disk, ``float32`` or ``float16``.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        settings = manifest["settings"]
        self.path = path
        self.dimension: int = settings["dimension"]
        self.contract_hash: str = settings["contract_hash"]
        self.source: Mapping[str, object] = settings["source"]
        self.dtype: str = settings["dtype"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._first_rows = np.array([shard["first_row"] for shard in self._shards], dtype=np.int64)
        self._rows: int = manifest["passages"]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> VectorStore:
        """Open a finished store; the size of every file is checked.

        Args:
            path: The folder that :func:`write_store` made.
            verify: Also read every file and compare its checksum.

        Raises:
            StoreError: there is no finished store.
            CorruptShardError: a file is missing or has another size (with ``verify``: another checksum).
        """
        path = Path(path)
        manifest = _read_json(path / "store.json")
        if manifest is None:
            raise StoreError(_why_not_a_store(path))
        _check_format(path, manifest)
        store = cls(path, manifest)
        for shard in store._shards:
            for name, expected in shard["files"].items():
                _check_size(path / name, expected["bytes"], path / _shard_name(shard["shard"]))
        if verify:
            store.verify()
        return store

    def __len__(self) -> int:
        return self._rows

    @property
    def ids(self) -> Sequence[str]:
        """Passage ids by row, read when asked for."""
        return _PassageIds(self)

    def shards(self) -> Iterator[tuple[int, npt.NDArray[np.floating[Any]]]]:
        """Yield (first row, memory-mapped [n, D] vectors) of each shard, in row order."""
        for shard in self._shards:
            yield shard["first_row"], self._shard_vectors(shard["shard"])

    def vectors(self, rows: npt.ArrayLike) -> Vectors:
        """Return the vectors of these rows, in their order.

        Args:
            rows: [n] row numbers.

        Returns:
            [n, D] float32.
        """
        wanted = self._checked_rows(rows)
        found = np.empty((len(wanted), self.dimension), dtype=np.float32)
        for shard, places, local in self._by_shard(wanted):
            found[places] = self._shard_vectors(shard)[local]
        return found

    def passage(self, row: int) -> Passage:
        """Return the passage of one row."""
        return self.passages([row])[0]

    def passages(self, rows: npt.ArrayLike) -> list[Passage]:
        """Return the passages of these rows [n], in their order; each shard is opened once."""
        return [Passage(id=line["id"], text=line["text"], title=line["title"]) for line in self._lines(rows)]

    def passage_ids(self, rows: npt.ArrayLike) -> list[str]:
        """Return the ids of these rows [n], in their order; each shard is opened once."""
        return [line["id"] for line in self._lines(rows)]

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            CorruptShardError: names the first shard that differs and how to write it anew.
        """
        for shard in self._shards:
            stem = self.path / _shard_name(shard["shard"])
            for name, expected in shard["files"].items():
                file = self.path / name
                _check_size(file, expected["bytes"], stem)
                if file_sha256(file) != expected["sha256"]:
                    raise CorruptShardError(f"{file} has another checksum than store.json says; {_how_to_repair(stem)}")

    def _shard_vectors(self, shard: int) -> npt.NDArray[np.floating[Any]]:
        file = self.path / f"{_shard_name(shard)}.vectors.npy"
        try:
            vectors: npt.NDArray[np.floating[Any]] = np.load(file, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CorruptShardError(
                f"{file} cannot be read; {_how_to_repair(self.path / _shard_name(shard))}"
            ) from error
        return vectors

    def _lines(self, rows: npt.ArrayLike) -> list[dict[str, str]]:
        wanted = self._checked_rows(rows)
        found: list[dict[str, str]] = [{}] * len(wanted)
        # Files are opened per call: a large store has more shards than a process may hold open.
        for shard, places, local in self._by_shard(wanted):
            stem = self.path / _shard_name(shard)
            try:
                offsets = np.load(f"{stem}.offsets.npy")
                with open(f"{stem}.passages.jsonl", "rb") as lines:
                    for place, begin, end in zip(places, offsets[local], offsets[local + 1], strict=True):
                        lines.seek(begin)
                        found[place] = json.loads(lines.read(end - begin))
            except (OSError, ValueError, IndexError) as error:
                raise CorruptShardError(f"the passages of {stem} cannot be read; {_how_to_repair(stem)}") from error
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

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        rows = range(len(self))[place]
        return self._store.passage_ids(rows) if isinstance(rows, range) else self._store.passage_ids([rows])[0]

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), 8192):
            yield from self[begin : begin + 8192]


def write_store(
    passages: Callable[[], Iterable[Passage]],
    encoder: PassageEncoder,
    output: str | Path,
    *,
    source: Mapping[str, object],
    shard_size: int = 8192,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
    total: int | None = None,
    max_shards: int | None = None,
    claim_timeout_seconds: float = 60.0,
) -> VectorStore:
    """Encode a corpus into a store; resume one that was begun, or help other processes that write the same one.

    Any number of processes, on any machines that share the folder, may make the same call at the same time; each
    takes the shards that nobody works on. A claim without a sign of life for ``claim_timeout_seconds`` is taken
    over, so the clocks of the machines must agree better than that. All return when the store is finished.

    Args:
        passages: Opens the corpus anew; called once or more. The order must always be the same.
        encoder: Called once per shard.
        output: The folder: new, empty, or a store that was begun with the same settings.
        source: Names the corpus (its fingerprint), the model and whatever else two equal stores have in common;
            goes into ``store.json``, and each entry must be equal to resume.
        shard_size: Passages per shard.
        dtype: Of the vectors on disk.
        overwrite: Replace a store with other settings, or a finished one. Never touches a folder that is no store.
        total: How many passages there are, if that is known; only for the progress bar.
        max_shards: Stop after this call has encoded so many shards; the next call goes on.
        claim_timeout_seconds: Without a sign of life for so long, another writer counts as dead.

    Raises:
        EmptyCorpusError: there is no passage; nothing is written.
        OutputExistsError: the folder holds something else, or a store with other settings.
        StoreError: settings or corpus differ from those the store was begun with, the disk is full, or
            ``max_shards`` were written and more are missing.
    """
    output = Path(output)
    if shard_size < 1:
        raise ConfigError(f"shard_size must be at least 1, not {shard_size}")
    if next(iter(passages()), None) is None:
        raise EmptyCorpusError(f"the corpus has no passages; nothing was written to {output}")
    settings = {
        "contract_hash": encoder.contract_hash,
        "dimension": encoder.dimension,
        "dtype": dtype,
        "shard_size": shard_size,
        "source": json.loads(json.dumps(dict(source), default=str)),
    }
    writer = _StoreWriter(output, settings, claim_timeout_seconds)
    if writer.is_finished_or_begin(overwrite=overwrite, expected_passages=total):
        logger.info("%s is finished already; nothing to do", output)
    else:
        writer.write(passages, encoder, total=total, max_shards=max_shards)
    return VectorStore.open(output)


class _StoreWriter:
    """One process's part in writing a store."""

    def __init__(self, output: Path, settings: dict[str, Any], claim_timeout_seconds: float) -> None:
        self.output = output
        self.settings = settings
        self.shard_size: int = settings["shard_size"]
        self.claim_timeout_seconds = claim_timeout_seconds
        self._poll_seconds = min(1.0, claim_timeout_seconds / 10)

    def is_finished_or_begin(self, *, overwrite: bool, expected_passages: int | None) -> bool:
        """Return True for a finished store with these settings; else lay down the plan, or join the one there."""
        _refuse_foreign_folder(self.output)
        with _disk_errors(self.output), self._plan_lock():
            store, plan = (_read_json(self.output / name) for name in ("store.json", "writing.json"))
            if plan is not None and plan.get("clearing"):
                self._clear()
                store = plan = None
            found = store or plan
            if found is not None:
                _check_format(self.output, found)
                differs = first_difference(found["settings"], self.settings)
                difference = f"{differs[0]} is {differs[1]!r} there and {differs[2]!r} now" if differs else None
                if difference and not overwrite:
                    raise _settings_differ(self.output, difference, finished=store is not None)
                if difference or (overwrite and store is not None):
                    self._clear()
                    store = plan = None
            if store is not None and self._is_whole(store):
                (self.output / "writing.json").unlink(missing_ok=True)
                return True
            if plan is None:
                self._write_json("writing.json", {"settings": self.settings, "expected_passages": expected_passages})
            (self.output / "store.json").unlink(missing_ok=True)
        return False

    def write(
        self,
        passages: Callable[[], Iterable[Passage]],
        encoder: PassageEncoder,
        *,
        total: int | None,
        max_shards: int | None,
    ) -> None:
        """Encode what nobody else does, wait for the others, and finish the store."""
        left = max_shards
        with ProgressReporter("encoding", "passages") as progress:
            progress.start(total)
            while True:
                rows, left = self._write_free_shards(iter(passages()), encoder, left, progress)
                shards = self._done_shards(rows)
                missing = [number for number, shard in enumerate(shards) if shard is None]
                if not missing:
                    break
                self._wait_for_others(missing)
        self._finish(rows, shards)

    def _write_free_shards(
        self, stream: Iterator[Passage], encoder: PassageEncoder, left: int | None, progress: ProgressReporter
    ) -> tuple[int, int | None]:
        """Go through the corpus once; return its number of passages and how many shards may still be written."""
        rows = 0
        for number in itertools.count():
            first = next(stream, None)
            if first is None:
                break
            if left == 0 and self._done_shard(number) is None:
                raise StoreError(
                    f"{self.output}: stopped before shard {number}, as max_shards asks; "
                    "run the same encode command again to go on"
                )
            chunk = itertools.chain([first], itertools.islice(stream, self.shard_size - 1))
            count, written = self._write_or_skip(number, chunk, encoder)
            rows += count
            if written:
                progress.advance(count)
                left = None if left is None else left - 1
            else:
                progress.skip(count)
        return rows, left

    def _write_or_skip(self, number: int, chunk: Iterator[Passage], encoder: PassageEncoder) -> tuple[int, bool]:
        """Use up the passages of one shard; return how many they are and whether this process wrote them."""
        if self._done_shard(number) is None:
            claim = Claim(self.output / f"{_shard_name(number)}.claim", self.claim_timeout_seconds)
            with _disk_errors(self.output):
                claimed = claim.acquire()
            try:
                # Another process may have finished the shard between the first look and the claim.
                if claimed and self._done_shard(number) is None:
                    batch = list(chunk)
                    vectors = self._encode(batch, encoder)
                    with _disk_errors(self.output):
                        return len(batch), self._write_shard(number, batch, vectors, claim)
            finally:
                claim.release()
        first = next(chunk)
        done = self._done_shard(number)
        if done is not None and done["first_id"] != first.id:
            raise self._corpus_changed(number)
        return 1 + sum(1 for _ in chunk), False

    def _encode(self, batch: Sequence[Passage], encoder: PassageEncoder) -> npt.NDArray[np.floating[Any]]:
        """Return [n, D] vectors in the type of the store."""
        vectors = np.asarray(encoder.encode_passages(batch))
        if vectors.shape != (len(batch), self.settings["dimension"]):
            raise StoreError(
                f"{self.output}: the encoder returned vectors of shape {vectors.shape} for {len(batch)} passages "
                f"of width {self.settings['dimension']}; check the model folder"
            )
        faulty = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(faulty):
            raise StoreError(
                f"{self.output}: the vector of passage {batch[faulty[0]].id!r} is not finite; "
                "check the model, or encode in float32"
            )
        return np.ascontiguousarray(vectors, dtype=np.dtype(self.settings["dtype"]).newbyteorder("<"))

    def _write_shard(
        self, number: int, batch: Sequence[Passage], vectors: npt.NDArray[np.floating[Any]], claim: Claim
    ) -> bool:
        """Write the files of a shard, the json last; return False if another process took the shard over."""
        name = _shard_name(number)
        (self.output / f"{name}.json").unlink(missing_ok=True)
        for leftover in self.output.glob(f"{name}.*.tmp-*"):
            leftover.unlink(missing_ok=True)
        lines = [_passage_line(passage) for passage in batch]
        offsets = np.cumsum([0, *map(len, lines)], dtype="<i8")
        contents = (_npy_chunks(vectors), lines, _npy_chunks(offsets))
        temps = {f"{name}.{suffix}": self.output / f"{name}.{suffix}.tmp-{claim.token}" for suffix in _SUFFIXES}
        try:
            files = {
                file: write_hashed(temp, chunks) for (file, temp), chunks in zip(temps.items(), contents, strict=True)
            }
            if not claim.is_held():
                return self._lost(number)
            for file, temp in temps.items():
                os.replace(temp, self.output / file)
            sync_folder(self.output)
            shard = {"shard": number, "first_row": number * self.shard_size, "rows": len(batch)}
            self._write_json(f"{name}.json", shard | {"first_id": batch[0].id, "files": files})
        except FileNotFoundError:
            if claim.is_held():
                raise
            return self._lost(number)  # whoever took it over has removed our files
        finally:
            for temp in temps.values():
                temp.unlink(missing_ok=True)
        return True

    def _lost(self, number: int) -> bool:
        logger.warning("%s: shard %d was taken over by another process; going on", self.output, number)
        return False

    def _done_shard(self, number: int) -> dict[str, Any] | None:
        """Return the json of a shard whose files are all there in full, else None."""
        try:
            shard = _read_json(self.output / f"{_shard_name(number)}.json")
        except StoreError:
            return None
        return shard if shard is not None and self._is_whole({"shards": [shard]}) else None

    def _done_shards(self, rows: int) -> list[dict[str, Any] | None]:
        """Return the json of every shard of a corpus of so many passages, None for those not done."""
        shards = [self._done_shard(number) for number in range(-(-rows // self.shard_size))]
        for number, shard in enumerate(shards):
            if shard is not None and shard["rows"] != min(self.shard_size, rows - number * self.shard_size):
                raise self._corpus_changed(number)
        if (self.output / f"{_shard_name(len(shards))}.json").exists():
            raise self._corpus_changed(len(shards))
        return shards

    def _is_whole(self, store: Mapping[str, Any]) -> bool:
        return all(
            _file_size(self.output / name) == expected["bytes"]
            for shard in store["shards"]
            for name, expected in shard["files"].items()
        )

    def _wait_for_others(self, missing: Sequence[int]) -> None:
        """Return when the missing shards are done, or when one of them is free."""
        logger.info("%s: waiting for %d shards that other processes encode", self.output, len(missing))
        claims = {
            number: Claim(self.output / f"{_shard_name(number)}.claim", self.claim_timeout_seconds)
            for number in missing
        }
        while claims:
            for number, claim in list(claims.items()):
                busy = claim.is_busy()  # looked at before the shard: a writer finishes first, then lets go
                if self._done_shard(number) is not None:
                    del claims[number]
                elif not busy:
                    return
            time.sleep(self._poll_seconds if claims else 0)

    def _finish(self, rows: int, shards: Sequence[dict[str, Any] | None]) -> None:
        with _disk_errors(self.output), self._plan_lock():
            if not (self.output / "store.json").exists():
                self._write_json("store.json", {"settings": self.settings, "passages": rows, "shards": shards})
            (self.output / "writing.json").unlink(missing_ok=True)
            for pattern in ("*.tmp-*", "shard-*.claim*", "plan.claim.stale-*"):
                for leftover in self.output.glob(pattern):
                    leftover.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete the store's own files; writing.json says so first, in case this is interrupted."""
        for path in self.output.glob("shard-*.claim"):
            if Claim(path, self.claim_timeout_seconds).is_busy():
                raise StoreError(f"{self.output} is being written by another process; wait for it or end it first")
        self._write_json("writing.json", {"clearing": True})
        (self.output / "store.json").unlink(missing_ok=True)
        for pattern in ("shard-*.json", "shard-*.npy", "shard-*.jsonl", "shard-*.tmp-*", "shard-*.claim*"):
            for path in self.output.glob(pattern):
                path.unlink(missing_ok=True)
        (self.output / "writing.json").unlink()

    @contextmanager
    def _plan_lock(self) -> Iterator[None]:
        """Let one process at a time decide about the folder as a whole."""
        self.output.mkdir(parents=True, exist_ok=True)
        claim = Claim(self.output / "plan.claim", self.claim_timeout_seconds)
        while not claim.acquire():
            time.sleep(self._poll_seconds / 5)
        try:
            yield
        finally:
            claim.release()

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        head = {"format": _FORMAT, "version": _FORMAT_VERSION}
        write_atomic(self.output / name, (json.dumps(head | dict(content), indent=1) + "\n").encode())

    def _corpus_changed(self, number: int) -> StoreError:
        return StoreError(
            f"{self.output}: shard {number} holds other passages than the corpus has there, although its fingerprint "
            "is the same; put the old corpus back, or encode to another folder"
        )


def _npy_chunks(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """Yield the bytes of an array as a .npy file, a few rows at a time."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield header.getvalue()
    rows = max(1, _WRITE_BYTES * len(array) // max(1, array.nbytes))
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows].tobytes()


def _passage_line(passage: Passage) -> bytes:
    fields = {"id": passage.id, "title": passage.title, "text": passage.text}
    try:
        return (json.dumps(fields, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        return (json.dumps(fields) + "\n").encode()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def _file_size(path: Path) -> int:
    """Return the size in bytes, -1 without a file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _check_size(path: Path, expected: int, stem: Path) -> None:
    size = _file_size(path)
    if size < 0:
        raise CorruptShardError(f"{path} is missing; {_how_to_repair(stem)}")
    if size != expected:
        raise CorruptShardError(f"{path} has {size:,} bytes instead of {expected:,}; {_how_to_repair(stem)}")


def _how_to_repair(stem: Path) -> str:
    return f"delete {stem}.* and run the same encode command again"


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None without a file."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise StoreError(f"{path} is not readable as JSON ({error}); restore it or encode to another folder") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} does not hold a JSON object; restore it or encode to another folder")
    return content


def _check_format(path: Path, manifest: Mapping[str, Any]) -> None:
    if manifest.get("format") != _FORMAT:
        raise StoreError(f"{path} is not a vector store of llama2vec; give the folder that `llama2vec encode` wrote")
    if manifest.get("version") != _FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {manifest.get('version')} and this llama2vec reads {_FORMAT_VERSION}; "
            "use the llama2vec that wrote it, or encode again"
        )


def _why_not_a_store(path: Path) -> str:
    plan = _read_json(path / "writing.json") if path.is_dir() else None
    if plan is None:
        return f"there is no vector store at {path}; make one with `llama2vec encode`"
    done = len(list(path.glob("shard-*.json")))
    expected = plan.get("expected_passages")
    of_all = f" of {-(-expected // plan['settings']['shard_size'])}" if expected else ""
    return f"{path} is not finished: {done}{of_all} shards; run the same encode command again"


def _refuse_foreign_folder(path: Path) -> None:
    """Raise unless the path is free, an empty folder or a store; nothing is changed."""
    if not path.exists():
        return
    foreign = OutputExistsError(f"{path} exists and is not a vector store; choose another folder")
    if not path.is_dir():
        raise foreign
    names = os.listdir(path)
    if not names or any(name.startswith("plan.claim") for name in names):
        return
    try:
        manifests = [_read_json(path / name) for name in ("store.json", "writing.json")]
    except StoreError:
        raise foreign from None
    if not any(manifest is not None and manifest.get("format") == _FORMAT for manifest in manifests):
        raise foreign


def _settings_differ(output: Path, difference: str, *, finished: bool) -> OutputExistsError | StoreError:
    what_to_do = "choose another folder or pass --overwrite"
    if finished and difference.startswith(("source.corpus", "source.fingerprint")):
        what_to_do = f"encode into another folder with --reuse {output}, or pass --overwrite to encode all anew"
    if finished:
        return OutputExistsError(f"{output} is a store with other settings: {difference}; {what_to_do}")
    return StoreError(f"{output} was begun with other settings: {difference}; {what_to_do}")


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system says while writing into one line."""
    try:
        yield
    except OSError as error:
        kept = len(list(folder.glob("shard-*.json")))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"disk full while writing {folder}; free space"
        else:
            problem = f"cannot write to {folder} ({error.strerror or error}); put that right"
        raise StoreError(f"{problem} and run the same command again: {kept} shards are kept") from error

"""Write a store shard by shard: resumable after a kill, shared by processes, the same bytes either way.

While a store is written its folder also holds ``writing.json`` (the settings that all writers share),
``shard-00000.claim`` (a lock: who works on what), ``shard-00000.partial.npz`` (vectors of a shard that was interrupted)
and ``*.tmp-*`` (files that are not complete). Every file is flushed to the disk and then moved into place.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.artifact import Found, Work, claim, read_object
from llama2vec.data.corpus.rows import passage_line
from llama2vec.errors import ConfigError, EmptyCorpusError, InputChangedError, StoreError
from llama2vec.files import disk_errors, write_atomic
from llama2vec.locks import Lock
from llama2vec.model.lengths import warn_of_cut
from llama2vec.records import Passage, VectorFormat
from llama2vec.retrieve.store.number_format import FORMAT_KEY, StoreKind, compute_dtype, formatted
from llama2vec.retrieve.store.placing import Take, shard_turns
from llama2vec.retrieve.store.reader import (
    FORMAT,
    PLAN_FILE,
    STORE_FILE,
    TEXT_PARTS,
    VECTORS_PART,
    PassageEncoder,
    Vectors,
    VectorStore,
    as_stored,
    check_vectors,
    is_intact,
    shard_name,
)
from llama2vec.retrieve.store.reuse import PartialShard, count_cut, encoder_batches
from llama2vec.terminal import ProgressReporter, counted

logger = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 24
_MOST_IN_A_SHARD = 1 << 31
_POLL_SECONDS = 0.5
_MADE_WITH = ("model", "prompts", "sets", "folder", "place")
"""Entries of ``source`` that say where model and documents lie; what they are, hashes say."""


def _read_store(folder: Path) -> Found | None:
    """Return the plan of a finished or begun store, None for anything else."""
    for name in (STORE_FILE, PLAN_FILE):
        content = read_object(folder / name)
        if content is None or content.get("format") != FORMAT["format"]:
            continue
        finished = name == STORE_FILE and _is_whole(folder, content.get("shards"))
        worth = any(any(folder.glob(pattern)) for pattern in ("shard-*.json", "shard-*.partial.npz"))
        busy = any(Lock(path).is_busy() for path in folder.glob("shard-*.claim"))
        plan = _plan(content.get("settings") or {})
        # A finished store serves in whatever format it was computed.
        return Found(formatted(plan, "") if finished else plan, finished, worth or finished, busy)
    return None


STORE = StoreKind(
    "a vector store",
    _read_store,
    entries=(STORE_FILE, PLAN_FILE, "shard-*", "plan.claim*"),
    leftovers=(PLAN_FILE, f"*.tmp-{'[0-9a-f]' * 32}", "shard-*.claim*", "shard-*.partial.npz", "plan.claim*"),
    advice="choose another output (with --reuse of this store only new texts are encoded), or pass --overwrite",
)


def write_store(
    passages: Callable[[], Iterable[Passage]],
    encoder: PassageEncoder | None,
    output: str | Path,
    *,
    source: Mapping[str, object],
    shard_size: int = 8192,
    dtype: VectorFormat = "float32",
    overwrite: bool = False,
    total: int | None = None,
) -> VectorStore:
    """Encode a corpus into a store, resume one that was begun, or help processes that write the same one.

    Any number of processes may make the same call at the same time, on all machines that share a file system with
    locks; each encodes the shards that no other works on. All return when the store is finished.

    Args:
        passages: Opens the corpus, always in the same order; called once or more. An InputChangedError behind the last
            one removes what was begun.
        encoder: Gives the vectors; None = a store of texts alone, for BM25.
        output: The folder: new, empty, or a store that was begun with the same settings.
        source: Names the corpus (its fingerprint), the model and all else that equal stores have in common.
        shard_size: Passages per shard.
        dtype: Number format of the vectors on disk.
        overwrite: Replace a store with other settings, or a finished one, once the new one is whole.
        total: How many passages there are, if that is known; only for the progress bar.

    Raises:
        EmptyCorpusError: The corpus has no passages; nothing is written.
        OutputExistsError: The folder holds something else, or a store with other settings.
        StoreError: The encoder or the corpus do not fit the store that was begun.
        DataError: The disk is full, or the folder cannot be written.
    """
    output = Path(output)
    if not 1 <= shard_size <= _MOST_IN_A_SHARD:
        raise ConfigError(f"shard_size must lie between 1 and {_MOST_IN_A_SHARD:,}, not {shard_size:,}")
    if next(iter(passages()), None) is None:
        raise EmptyCorpusError(f"the corpus has no passages; nothing was written to {output}")
    settings = {
        "contract_hash": encoder.contract_hash if encoder else "",
        "dimension": encoder.dimension if encoder else 0,
        "dtype": dtype,
        "shard_size": shard_size,
        "source": json.loads(json.dumps(dict(source), default=str)),
    }
    settings = formatted(settings, compute_dtype(encoder))
    inputs = [str(source.get("corpus") or ""), _model_path(source, output)]
    with claim(output, STORE, _plan(settings), overwrite=overwrite, inputs=inputs, shared=True) as work:
        if not work.is_finished:
            work.begin(prepare=partial(_lay_down_plan, settings=settings, total=total))
        if work.is_finished:
            logger.info("%s is already done; nothing to do", output)
        else:
            with disk_errors(output):
                _StoreWriter(work, settings, encoder).write(passages, total)
    return VectorStore.open(output)


def passages_sha256(passages: Iterable[Passage]) -> str:
    """Return a hash of passages, in their order."""
    total = hashlib.sha256()
    for passage in passages:
        parts: list[Any] = [passage.id, passage.title, passage.text]
        if passage.place is not None or passage.fields:
            parts += [passage.place and asdict(passage.place), dict(passage.fields)]
        total.update(hashlib.sha256(json.dumps(parts).encode()).digest())
    return total.hexdigest()


def _model_path(source: Mapping[str, object], output: Path) -> str:
    """Return where the model of a store lies, "" for one that only has a name."""
    spec = source.get("model")
    path = spec.get("path") if isinstance(spec, Mapping) else None
    return str(output.resolve() / str(path)) if path else ""


def warn_of_cut_passages(store: VectorStore, remedy: str, *, where: str = "") -> None:
    """Warn of passages of ``where`` (the store) that the model did not read whole; the remedy ends the sentence."""
    warn_of_cut(where or str(store.path), store.cut, len(store), f"is not in its vector; {remedy}")


def _plan(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a store: its settings, but not by which name the encoder was loaded."""
    source = settings.get("source") or {}
    decides = {key: source[key] for key in source if key not in _MADE_WITH}
    if corpus := decides.get("corpus"):
        decides["corpus"] = normpath(str(corpus))  # "texts/" is "texts"
    return {**settings, "source": decides}


def _lay_down_plan(folder: Path, settings: Mapping[str, Any], total: int | None) -> None:
    if not (folder / PLAN_FILE).exists():
        if before := read_object(folder / STORE_FILE):  # Its other shards stay
            settings = formatted(settings, (before.get("settings") or {}).get(FORMAT_KEY, ""))
        _write_json(folder / PLAN_FILE, {"settings": settings, "expected_passages": total})
    # A finished store of which a shard is missing is an unfinished one.
    (folder / STORE_FILE).unlink(missing_ok=True)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_atomic(path, (json.dumps(FORMAT | dict(content), indent=1) + "\n").encode())


class _StoreWriter:
    """One process's part in writing a store."""

    def __init__(self, work: Work, settings: dict[str, Any], encoder: PassageEncoder | None) -> None:
        self.work, self.folder, self.settings, self.encoder = work, work.path, settings, encoder
        self.shard_size: int = settings["shard_size"]
        self.progress = ProgressReporter("encoding" if encoder else "writing", "passage")

    def write(self, passages: Callable[[], Iterable[Passage]], total: int | None) -> None:
        """Encode the shards that no other process works on, wait for the others, and finish the store."""
        try:
            with self.progress:
                self.progress.start(total)
                while True:
                    rows, stream = 0, iter(passages())
                    with shard_turns(self.encoder) as take:
                        for number, first in enumerate(stream):
                            chunk = itertools.chain([first], itertools.islice(stream, self.shard_size - 1))
                            rows += self._write_or_skip(number, chunk, take)
                    shards = self._done_shards(rows)
                    missing = [number for number, shard in enumerate(shards) if shard is None]
                    if not missing:
                        break
                    self._wait_for_others(missing)
            self.work.finish(lambda: self._complete(rows, shards))
        except InputChangedError:
            # The shards are of one text or the other, so nothing of them may be resumed.
            (self.folder / PLAN_FILE).unlink(missing_ok=True)
            raise
        except FileNotFoundError as error:
            # Another process with the same plan has finished the store and moved it to its place.
            found = _read_store(self.work.output)
            is_ours = found is not None and found.finished and not STORE.refusal(found.plan, _plan(self.settings))
            if self.folder.exists() or not is_ours:
                raise StoreError(f"{self.folder} was removed while it was written ({error}); encode again") from error

    def _write_or_skip(self, number: int, chunk: Iterator[Passage], take: Take) -> int:
        """Consume the passages of one shard, encode them unless another process does, and return their number."""
        done = self._done_shard(number)
        if done is None:
            lock = Lock(self.folder / f"{shard_name(number)}.claim")
            claimed, handed_over = lock.acquire(), False
            try:
                done = self._done_shard(number)  # another process may have finished it since the first look
                if claimed and done is None:
                    batch = list(chunk)
                    take(partial(self._make_shard, number, batch, lock))
                    handed_over = True
                    return len(batch)
            finally:
                if not handed_over:
                    lock.release()
        rows, text = 0, hashlib.sha256()
        for passage in chunk:
            rows += 1
            text.update(passage_line(passage) if done else b"")
        if done and done["files"][f"{shard_name(number)}.{TEXT_PARTS[0]}"]["sha256"] != text.hexdigest():
            raise self._corpus_changed(number)
        self.progress.skip(rows)
        return rows

    def _make_shard(self, number: int, batch: Sequence[Passage], held: Lock) -> None:
        """Encode and write a shard, then give its claim back."""
        encoder = self.encoder
        try:
            cut = self._count_cut(number, batch, encoder) if encoder else None
            vectors = self._encode(number, batch, encoder) if encoder else None
            self._write_shard(number, batch, vectors, cut)
            self.progress.advance(0 if encoder else len(batch))
        finally:
            held.release()

    def _count_cut(self, number: int, batch: Sequence[Passage], encoder: PassageEncoder) -> int | None:
        """Return how many passages the encoder does not read whole; say so at once if hours of encoding follow."""
        cut = count_cut(encoder, batch)
        if cut and number == 0 and len(batch) == self.shard_size:
            logger.warning("the model reads only the beginning of %d of the first %d passages", cut, len(batch))
        return cut

    def _encode(self, number: int, batch: Sequence[Passage], encoder: PassageEncoder) -> npt.NDArray[Any]:
        """Return [n, D] vectors in the format of the store; what is done is saved every minute and on interruption."""
        made = PartialShard(self.folder / f"{shard_name(number)}.partial.npz", batch, self.settings["dimension"])
        self.progress.skip(int(made.known.sum()))
        try:
            for rows, vectors in encoder_batches(encoder, batch, made.known):
                self._check_vectors(vectors, [batch[row] for row in rows])
                self.progress.advance(made.add(rows, vectors))
        except BaseException:
            with suppress(OSError):
                made.save()
            raise
        if not made.known.all():
            raise StoreError(f"{self.work.output}: the encoder left passages without a vector; check the model")
        return as_stored(made.vectors, self.settings["dtype"])

    def _check_vectors(self, vectors: Vectors, passages: Sequence[Passage]) -> None:
        if vectors.shape != (len(passages), self.settings["dimension"]):
            raise StoreError(
                f"{self.work.output}: the encoder returned vectors of shape {vectors.shape} for {len(passages)} "
                f"passages of width {self.settings['dimension']}; check the model folder"
            )
        check_vectors(vectors, lambda row: f"{self.work.output}: the vector of passage {passages[row].id!r}")

    def _write_shard(
        self, number: int, batch: Sequence[Passage], vectors: npt.NDArray[Any] | None, cut: int | None
    ) -> None:
        """Write the files of a shard, its json last."""
        name = shard_name(number)
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        for leftover in self.folder.glob(f"{name}.*.tmp-*"):
            leftover.unlink(missing_ok=True)
        lines = [passage_line(passage) for passage in batch]
        offsets = np.cumsum([0, *map(len, lines)], dtype="<i8")
        parts: dict[str, Iterable[bytes]] = {} if vectors is None else {VECTORS_PART: _npy_chunks(vectors)}
        parts |= zip(TEXT_PARTS, (lines, _npy_chunks(offsets)), strict=True)
        files = {
            f"{name}.{part}": write_atomic(self.folder / f"{name}.{part}", chunks) for part, chunks in parts.items()
        }
        shard = {"shard": number, "first_row": number * self.shard_size, "rows": len(batch)}
        shard |= {} if cut is None else {"cut": cut}  # No count is not a count of 0: see VectorStore.cuts_nothing
        _write_json(self.folder / f"{name}.json", shard | {"first_id": batch[0].id, "files": files})
        (self.folder / f"{name}.partial.npz").unlink(missing_ok=True)

    def _done_shard(self, number: int) -> dict[str, Any] | None:
        """Return the json of a shard whose files are as they were written, else None."""
        shard = read_object(self.folder / f"{shard_name(number)}.json") or {}
        is_done = {"rows", "first_id"} <= shard.keys() and _is_whole(self.folder, [shard], verify=True)
        return shard if is_done else None

    def _done_shards(self, rows: int) -> list[dict[str, Any] | None]:
        """Return the json of every shard of a corpus of so many passages, None for those not done."""
        shards = [self._done_shard(number) for number in range(-(-rows // self.shard_size))]
        for number, shard in enumerate(shards):
            if shard is not None and shard["rows"] != min(self.shard_size, rows - number * self.shard_size):
                raise self._corpus_changed(number)
        if (self.folder / f"{shard_name(len(shards))}.json").exists():
            raise self._corpus_changed(len(shards))
        return shards

    def _wait_for_others(self, missing: Sequence[int]) -> None:
        """Return when the missing shards are done, or when one of them is free."""
        logger.info("%s: waiting for %s that other processes encode", self.work.output, counted(len(missing), "shard"))
        waiting = {number: Lock(self.folder / f"{shard_name(number)}.claim") for number in missing}
        while waiting and self.folder.exists():
            for number, lock in list(waiting.items()):
                busy = lock.is_busy()  # looked at before the shard: a writer finishes first, then lets go
                if self._done_shard(number) is not None:
                    del waiting[number]
                elif not busy:
                    return
            time.sleep(_POLL_SECONDS if waiting else 0)

    def _complete(self, rows: int, shards: Sequence[dict[str, Any] | None]) -> None:
        if not (self.folder / STORE_FILE).exists():
            begun = (read_object(self.folder / PLAN_FILE) or {}).get("settings") or {}
            # Only now is it known whether a sync has encoded any text. What an earlier version began names no format.
            settings = formatted(self.settings, compute_dtype(self.encoder) if FORMAT_KEY in begun else "")
            _write_json(self.folder / STORE_FILE, {"settings": settings, "passages": rows, "shards": shards})
        for pattern in STORE.leftovers:
            for leftover in self.folder.glob(pattern):
                leftover.unlink(missing_ok=True)

    def _corpus_changed(self, number: int) -> StoreError:
        return StoreError(
            f"{self.work.output}: shard {number} holds other passages than the corpus has there, although its "
            "fingerprint is the same; restore the old corpus, or encode to another folder"
        )


def _is_whole(folder: Path, shards: Any, *, verify: bool = False) -> bool:
    """Return whether every file that the manifests of shards name has its size (``verify``: its checksum)."""
    try:
        files = [(folder / name, expected) for shard in shards for name, expected in shard["files"].items()]
        whole = bool(files) and all(file.stat().st_size == expected["bytes"] for file, expected in files)
        return whole and (not verify or all(is_intact(file, expected["sha256"]) for file, expected in files))
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def _npy_chunks(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """Yield the bytes of an array as a .npy file, a few rows at a time."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield header.getvalue()
    rows = max(1, _WRITE_BYTES * len(array) // max(1, array.nbytes))
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows].tobytes()

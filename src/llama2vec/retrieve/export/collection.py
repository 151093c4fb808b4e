"""Bring a collection in an engine to the state of a store: what is new or changed is written, what is gone removed."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama2vec.data.corpus.distinct import id_key
from llama2vec.data.corpus.rows import passage_line
from llama2vec.data.corpus.sources import is_remote
from llama2vec.engines.engine import About, Engine, Entry, encodable, engine_errors
from llama2vec.errors import EngineError
from llama2vec.languages import check_language
from llama2vec.records import Passage
from llama2vec.retrieve.index.word_vectors import WordVectors
from llama2vec.retrieve.store.reader import Vectors, VectorStore, store_passages, store_sha256
from llama2vec.terminal import ProgressReporter, counted

logger = logging.getLogger(__name__)

_READ = 1024
_BATCH_PASSAGES, _BATCH_BYTES = 1000, 4 << 20
"""Most that is written at once: engines refuse requests of 32 to 100 MB, and JSON takes five times the bytes."""

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did, in passages."""

    written: int
    unchanged: int
    removed: int


def export_store(store: VectorStore, engine: Engine, *, language: str | None = None, replace: bool = False) -> Exported:
    """Make a collection equal to a store; after an interruption, the same call continues.

    The weights of words depend on the whole corpus, so with ``language`` a changed corpus changes most passages.

    Args:
        store: A finished store with vectors.
        engine: The collection; created where it does not exist.
        language: ISO 639 code of the words to search by; None = vectors alone.
        replace: Also replace the passages of another corpus, and more than half of those that the collection holds.

    Raises:
        StoreError: The store has no vectors, or is damaged.
        EngineError: The collection has another contract, other words or another corpus, most of what it holds is not in
            the store, the engine cannot hold a passage, or it fails.
    """
    store.check_vectors()
    about = About(
        contract_hash=store.contract_hash, dimension=store.dimension, language=language, corpus="-".join(named(store))
    )
    finished = about.model_copy(update={"mirrors": store_sha256(store)})
    with engine_errors(engine):
        found = engine.about()
        if found is not None:
            _check_same(found, about, engine)
            if not replace and found.corpus not in ("", about.corpus) and found.mirrors != finished.mirrors:
                raise EngineError(
                    f"{engine.place} holds the passages of another corpus ({found.corpus}); choose another "
                    f"--collection, or pass --overwrite to replace them by those of {store.path}"
                )
            if found == finished and engine.count() == len(store):
                return Exported(0, len(store), 0)
        words = None
        if language is not None and not engine.has_bm25:
            words = WordVectors(store_passages(store), language)
        keys, digests = _read(store, words, engine)
        done, gone = np.zeros(len(store), dtype=np.bool_), list[str]()
        if found is None:
            engine.create(about)
        else:
            done, gone, held = _compare(engine, keys, digests)
            if not replace:
                check_gone(len(gone), held, engine.place, store, "another --collection")
            engine.describe(about)
        _write(store, words, engine, done)
        for begin in range(0, len(gone), _BATCH_PASSAGES):
            engine.delete(gone[begin : begin + _BATCH_PASSAGES])
        engine.finish()
        held = engine.count()
        if held != len(store):
            raise EngineError(
                f"{engine.place} holds {counted(held, 'passage')} instead of {len(store):,}; export again"
            )
        engine.describe(finished)
    return Exported(int((~done).sum()), int(done.sum()), len(gone))


def named(store: VectorStore) -> tuple[str, str]:
    """Return a short name of the corpus that a store was made from, and a hash of what tells it from every other one.

    That is the place of local files or the name of a data set, so that a corpus stays the same one when it changes.
    A corpus without a place is known by that of the store.
    """
    corpus, folder = str(store.source.get("corpus") or ""), str(store.source.get("folder") or "")
    name = Path(corpus or folder).name
    if folder:  # Absolute; that of a single document holds others too
        place = f"{folder}|{'' if name in ('', '..', Path(folder).name) else name}"
    elif is_remote(corpus):
        place = corpus
    else:  # Texts from Python have no place, nor have stores of earlier versions, which keep a path as it was typed
        place = str(store.source.get("place") or f"{store.path.resolve()}|{corpus}")
    plain = re.sub(r"[^a-z0-9]+", "_", (Path(name).stem or Path(folder).name).lower()).strip("_")[:30].strip("_")
    return plain or "texts", hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:8]


def check_gone(gone: int, held: int, place: str, store: VectorStore, other: str) -> None:
    """Refuse to delete more than half of the passages that a place holds: it is likely to be of another corpus."""
    if 2 * gone > held:
        raise EngineError(
            f"{place} holds {counted(held, 'passage')}, {gone:,} of which are no longer in {store.path}; "
            f"pass --overwrite to delete those {gone:,}, or choose {other}"
        )


def _check_same(found: About, wanted: About, engine: Engine) -> None:
    """Refuse a collection whose vectors or words are of another kind."""
    elsewhere = "choose another --collection, or drop this one first"
    if (found.contract_hash, found.dimension) != (wanted.contract_hash, wanted.dimension):
        raise EngineError(
            f"{engine.place} holds vectors of contract {found.contract_hash[:12]}, and the store was encoded under "
            f"{wanted.contract_hash[:12]}; {elsewhere}"
        )
    if found.language != wanted.language:
        has = f"words in the language {found.language}" if found.language else "no words"
        how = f"pass --bm25 --language {found.language}" if found.language else "leave out --bm25"
        if found.language and check_language(found.language) != found.language:
            how = "its words are neither stemmed nor without stop words"  # No --language names it any more
        raise EngineError(f"{engine.place} was made with {has}; {how}, {elsewhere}")


def _read(store: VectorStore, words: WordVectors | None, engine: Engine) -> tuple[Keys, Keys]:
    """Return a hash of every id [N] and of all of its passage [N, 2]; refuse first what the engine cannot hold."""
    keys, digests = np.empty(len(store), dtype=np.uint64), np.empty((len(store), 2), dtype=np.uint64)
    replaced = 0
    with ProgressReporter("reading the store", "passage") as progress:
        progress.start(len(store))
        for rows, batch in _batches(store):
            passages = [encodable(passage) for passage in batch]
            replaced += sum(new is not old for new, old in zip(passages, batch, strict=True))
            for row, passage, vector in zip(rows, passages, store.vectors(rows), strict=True):
                found = words.of_row(row) if words else {}
                _check_held(passage, len(found), engine, store)
                keys[row] = id_key(passage.id)
                digests[row] = np.frombuffer(bytes.fromhex(_entry(passage, vector, found)[0].digest), np.uint64)
            progress.advance(len(rows))
    if replaced:
        logger.warning("characters that no engine takes become U+FFFD there, in %s", counted(replaced, "passage"))
    return keys, digests


def _check_held(passage: Passage, words: int, engine: Engine, store: VectorStore) -> None:
    try:
        passage.id.encode()
        reason = "its id holds a NUL character" if "\0" in passage.id else engine.why_not(passage, words)
    except UnicodeEncodeError:
        reason = "its id is not valid Unicode"
    if reason:
        raise EngineError(
            f"{engine.place} cannot hold passage {passage.id!a} of {store.path}: {reason}; change that passage and "
            "encode again, or choose another engine"
        )


def _compare(engine: Engine, keys: Keys, digests: Keys) -> tuple[npt.NDArray[np.bool_], list[str], int]:
    """Return which rows [N] the collection holds as they are, the ids that the store lacks, and how many it holds."""
    order = np.argsort(keys, kind="stable")
    ordered, done, gone, held = keys[order], np.zeros(len(keys), dtype=np.bool_), list[str](), 0
    with ProgressReporter("comparing with the collection", "passage") as progress:
        progress.start(engine.count())
        for batch in engine.digests():
            asked = np.array([id_key(one) for one, _ in batch], dtype=np.uint64)
            places = np.minimum(np.searchsorted(ordered, asked), len(ordered) - 1)
            rows = np.where(ordered[places] == asked, order[places], -1).tolist()
            for row, (passage_id, digest) in zip(rows, batch, strict=True):
                if row < 0:
                    gone.append(passage_id)
                elif digests[row].tobytes().hex() == digest:
                    done[row] = True
            held += len(batch)
            progress.advance(len(batch))
    return done, gone, held


def _write(store: VectorStore, words: WordVectors | None, engine: Engine, done: npt.NDArray[np.bool_]) -> None:
    """Write every passage that is not done, in batches of a few megabytes."""
    with ProgressReporter(f"writing to {engine.kind}", "passage") as progress:
        progress.start(len(store), completed=int(done.sum()))
        entries: list[Entry] = []
        size = 0
        for rows, batch in _batches(store, np.flatnonzero(~done)):
            for row, passage, vector in zip(rows, batch, store.vectors(rows), strict=True):
                entry, added = _entry(encodable(passage), vector, words.of_row(row) if words else {})
                if entries and (len(entries) == _BATCH_PASSAGES or size + added > _BATCH_BYTES):
                    engine.upsert(entries)
                    progress.advance(len(entries))
                    entries, size = [], 0
                entries.append(entry)
                size += added
        if entries:
            engine.upsert(entries)
            progress.advance(len(entries))


def _batches(
    store: VectorStore, rows: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[Sequence[int], list[Passage]]]:
    """Yield rows of a store, all or some, with their passages."""
    wanted = np.arange(len(store)) if rows is None else rows
    for begin in range(0, len(wanted), _READ):
        part = wanted[begin : begin + _READ].tolist()
        yield part, store.passages(part)


def _entry(passage: Passage, vector: Vectors, words: Mapping[int, float]) -> tuple[Entry, int]:
    """Return what is written of a passage, and how many bytes that is."""
    line = passage_line(passage)
    content = hashlib.blake2b(line, digest_size=16)
    content.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    for number, weight in sorted(words.items()):
        content.update(np.float32(weight).tobytes() + number.to_bytes(4, "little"))
    return Entry(passage, vector, words, content.hexdigest()), len(line) + vector.nbytes + 8 * len(words)

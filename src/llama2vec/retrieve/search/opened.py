"""One state of an index, opened: whatever a search reads belongs to it, also while the index is replaced."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError, Llama2VecError, StoreError, StoreReplacedError
from llama2vec.model.lengths import Cut, warn_of_limit
from llama2vec.records import Query
from llama2vec.retrieve.index.engine import EngineIndex
from llama2vec.retrieve.index.exact import Index
from llama2vec.retrieve.index.filters import PassageFields
from llama2vec.retrieve.index.folder import (
    BM25_PART,
    MANIFEST,
    check_index,
    index_folder,
    open_bm25,
    open_fields,
    open_index,
)
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import MODES, Mode
from llama2vec.retrieve.search.query_table import QueryTable, is_query_table
from llama2vec.retrieve.store.reader import STORE_FILE, Vectors, VectorStore

_TRIES, _WAIT_SECONDS = 5, 0.05
"""Where a file system cannot let two folders trade places in one step, an index is missing for a moment."""

Stamp = tuple[tuple[int, int, int] | None, ...]


class QueryEncoder(Protocol):
    """What searching needs of a model."""

    @property
    def contract_hash(self) -> str:
        """Hash of what decides the vectors."""

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return [Q, D] unit vectors."""


@runtime_checkable
class LimitedQueryEncoder(Protocol):
    """An encoder that reads only the beginning of a long query, and can say of how many."""

    def cut_queries(self, queries: Sequence[Query], /) -> Cut:
        """Return how many queries are longer than the encoder reads of them, and how much that is."""


def warn_of_cut_queries(encoder: object, queries: Sequence[Query], remedy: str, *, where: str = "") -> None:
    """Warn of queries that an encoder does not read whole; ``remedy`` says how to raise its limit where that is set."""
    if isinstance(encoder, LimitedQueryEncoder):
        warn_of_limit(encoder.cut_queries(queries), len(queries), remedy, where=where)


@dataclass(frozen=True, slots=True)
class OpenedIndex:
    """The parts of an index that belong together."""

    index: Index  # Over the vectors
    bm25: Bm25Index | None  # Over the same passages; None = without words
    fields: PassageFields  # What filters read
    stamp: Stamp  # Changes when a part is written again
    folder: Path | None = None  # Where the index lies; None = its parts were opened elsewhere
    encoder: QueryEncoder | None = None  # For the queries; None = words alone

    @classmethod
    def open(cls, path: Path) -> OpenedIndex:
        """Open all parts of an index in one state; errors as of :func:`open_index`."""
        given, path = path, path.absolute()  # the process may change its folder
        for last in (*[False] * (_TRIES - 1), True):
            before = _stamp(path)
            try:
                check_index(given)  # A message names the path as it was given
                index = open_index(path)
                bm25, fields = open_bm25(path, index.store), open_fields(path, index.store)
            except Llama2VecError:
                # Half of it may be of an index that was replaced meanwhile.
                if last or _stamp(path) == before:
                    raise
            else:
                if _stamp(path) == before:
                    return cls(index, bm25, fields, _stamp(path, index.store), path)
            time.sleep(_WAIT_SECONDS)
        raise StoreReplacedError(f"{path} is replaced faster than it can be opened; try again later")

    def again(self) -> OpenedIndex:
        """Open what lies in the folder now, in the place of this state; errors as of :meth:`open`."""
        assert self.folder is not None
        if isinstance(self.index, EngineIndex):
            self.index.let_go()
        return OpenedIndex.open(self.folder)

    @classmethod
    def of_parts(cls, index: Index, bm25: Bm25Index | None, fields: PassageFields) -> OpenedIndex:
        """Put together parts that were opened before."""
        return cls(index, bm25, fields, _stamp(None, index.store))

    @property
    def store(self) -> VectorStore:
        """Vectors and passages."""
        return self.index.store

    @property
    def is_present(self) -> bool:
        """Whether the files are still those that were opened."""
        return _stamp(self.folder, self.index.store) == self.stamp

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What can be asked for; the first is the default."""
        has = {"dense": self.encoder is not None, "bm25": self.bm25 is not None}
        return tuple(mode for mode in ("hybrid", "dense", "bm25") if has.get(mode, all(has.values())))

    @property
    def default_mode(self) -> Mode:
        """The first of :attr:`modes`; where there is none, the one whose :meth:`check_mode` says what is missing."""
        return self.modes[0] if self.modes else "dense" if self.index.store.has_vectors else "bm25"

    def check_mode(self, mode: str) -> None:
        """Raise an error that says what to do unless the index can be searched by a mode."""
        if mode not in MODES:
            raise ConfigError(f"unknown search mode {mode!r}; choose one of {', '.join(MODES)}")
        if mode in self.modes:
            return
        store, how = self.index.store, "add it: `llama2vec index STORE -o INDEX --bm25`"
        if mode == "dense" or self.bm25 is not None:
            how = "give the model that encoded it"
        if mode != "bm25" and not store.has_vectors:
            how = f"add vectors: {store.how_to_add_vectors}"
        carried = ", ".join(self.modes) or "nothing"
        raise StoreError(f"{store.path} cannot be searched by {mode}, only by {carried}; {how}")

    def encoded(self, queries: Sequence[Query], *, warns: bool = True) -> Vectors:
        """Return [Q, D] vectors of queries, and warn of those that are cut; the index must have an encoder."""
        assert self.encoder is not None
        vectors = self.encoder.encode_queries(queries)
        if warns:  # After reading them, which has loaded what counts their tokens
            warn_of_cut_queries(self.encoder, queries, "encode the corpus with a larger query_max_tokens")
        return vectors

    def with_encoder(self, encoder: QueryEncoder | None) -> OpenedIndex:
        """Return the state with an encoder for its queries; a StoreError if that is not the one of its vectors."""
        if encoder is None or not self.index.store.has_vectors:
            return replace(self, encoder=None)
        check_contract(self.index.store, encoder)
        return replace(self, encoder=encoder)


class EncoderOfStore:
    """The model that a store names, or another one, loaded by the first query."""

    def __init__(self, store: VectorStore, model: str | Path | None, settings: ModelSettings) -> None:
        self.contract_hash = store.contract_hash
        self._store, self._model, self._settings = store, model, settings
        self._encoder: QueryEncoder | None = None

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """See :class:`QueryEncoder`."""
        if self._encoder is None and self._model is not None and is_query_table(self._model):
            self._encoder = QueryTable.load(self._model)
            check_contract(self._store, self._encoder)
        if self._encoder is None:
            from llama2vec.model.quick_queries import QuickQueries
            from llama2vec.model.source import ModelSpec

            spec = ModelSpec.of_store(self._store.source, self._store.path, self._model)
            encoder = QuickQueries(spec, self._settings)
            check_contract(self._store, encoder)
            self._encoder = encoder
        return self._encoder.encode_queries(queries)

    def cut_queries(self, queries: Sequence[Query]) -> Cut:
        """See :class:`LimitedQueryEncoder`; an encoder that no query has asked yet has cut none."""
        return self._encoder.cut_queries(queries) if isinstance(self._encoder, LimitedQueryEncoder) else Cut(0, 0)


def check_contract(store: VectorStore, encoder: QueryEncoder) -> None:
    """Raise a :class:`StoreError` unless queries are encoded the way the passages were."""
    store.check_vectors()
    if store.contract_hash != encoder.contract_hash:
        raise StoreError(
            f"{store.path} was encoded under contract {store.contract_hash[:12]} and the query model has "
            f"{encoder.contract_hash[:12]}; search with the model that encoded it, or encode the corpus again"
        )


def _stamp(path: Path | None, store: VectorStore | None = None) -> Stamp:
    """Return what changes when a part of an index is written again; None for each file that is missing."""
    files = [store.path / STORE_FILE] if store else []
    if path is not None:
        folder = path
        with suppress(OSError):  # This user may not look into the folder
            folder = index_folder(path)
        files += [folder / MANIFEST, folder / BM25_PART, path / STORE_FILE]
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        found.append(None)
        with suppress(OSError):
            status = file.stat()
            found[-1] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return tuple(found)

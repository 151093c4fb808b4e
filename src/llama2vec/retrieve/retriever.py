"""Search one corpus by vectors (dense), by words (BM25), or by both together (hybrid).

Where an index has BM25, hybrid is the default: BM25 scores and cosines, each scaled by min-max. On seven data sets that
beat either of the two alone, and reciprocal ranks (docs/results.md).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llama2vec.config import ModelSettings, load_config
from llama2vec.data.cutting import word_spans
from llama2vec.data.passages import Splitter
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError, StoreError
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.filters import PassageFields
from llama2vec.retrieve.fusion import MODES, Fusion, Mode
from llama2vec.retrieve.hits import Hit, grouped
from llama2vec.retrieve.index import build_index, open_bm25, open_fields, open_index, store_passages
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.store import STORE_FILE, Vectors, VectorStore
from llama2vec.retrieve.store_writer import warn_of_cut_passages, write_store
from llama2vec.retrieve.texts import as_passages, passages_sha256
from llama2vec.retrieve.vector_index import Index, Rows, Scores

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

FUSED_DEPTH = 1000
"""Fewest passages that each mode contributes to hybrid, so that the first ranks do not depend on the depth."""

_FEWEST, _PER_DOCUMENT = 50, 10
"""Passages that are searched for documents, at least and for each of them; more where these are of too few."""


class QueryEncoder(Protocol):
    """What searching needs of a model."""

    @property
    def contract_hash(self) -> str:
        """Hash of what decides the vectors."""

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return [Q, D] unit vectors."""


class Retriever:
    """A corpus that can be searched by any mode that its index carries.

    Args:
        index: Over the vectors.
        encoder: For the queries; None = search by ``bm25`` alone, as also where the store has no vectors.
        bm25: Over the same passages, in the order of the store.
        fusion: How ``hybrid`` mixes; None = the defaults of :class:`Fusion`.
        fields: What filters read of the passages; None = the first filter collects it.

    Raises:
        StoreError: The encoder's contract differs from the one the corpus was encoded under.
    """

    def __init__(
        self,
        index: Index,
        encoder: QueryEncoder | None,
        *,
        bm25: Bm25Index | None = None,
        fusion: Fusion | None = None,
        fields: PassageFields | None = None,
    ) -> None:
        self.index = index
        self.encoder = encoder if index.store.has_vectors else None
        self.fusion = fusion or Fusion()
        self.fields = fields or PassageFields(lambda: store_passages(index.store))
        self._bm25 = bm25
        self._manifest = _stamp(index.store)
        if self.encoder is not None:
            check_contract(index.store, self.encoder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: QueryEncoder | str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        fusion: Fusion | None = None,
    ) -> Retriever:
        """Open an index folder, or a vector store.

        Args:
            path: What `llama2vec index` or `encode` wrote, or the folder of :meth:`from_texts`.
            encoder: The encoder that made the vectors, or a model's path or name; None = the model that the store
                names. A model is loaded by the first search that needs vectors.
            device: Where that model runs.
            dtype: Its number format.
            fusion: How ``hybrid`` mixes; None = the defaults of :class:`Fusion`.

        Raises:
            StoreError: The index does not exist, is damaged or belongs to another store, or the encoder's contract
                differs.
        """
        index = open_index(path)
        if not index.store.has_vectors:
            how = index.store.how_to_add_vectors
            logger.info("%s has no vectors, so BM25 alone searches it; add them with %s", index.store.path, how)
        elif encoder is None or isinstance(encoder, str | Path):
            settings = load_config(ModelSettings, None, [f"device={device}", f"dtype={dtype}"])
            encoder = _EncoderOfStore(index.store, encoder, settings)
        # What is still a name here belongs to a store without vectors, which no model can search.
        query_encoder = None if isinstance(encoder, str | Path) else encoder
        bm25, fields = open_bm25(path, index.store), open_fields(path, index.store)
        return cls(index, query_encoder, bm25=bm25, fusion=fusion, fields=fields)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str | Mapping[str, Any] | Passage],
        model: Encoder | str | Path | None,
        folder: str | Path | None = None,
        *,
        language: str | None = "en",
        device: str = "auto",
        dtype: str = "auto",
        overwrite: bool = False,
        split: PassageSettings | None = None,
    ) -> Retriever:
        """Encode and index texts, and open the result for searching.

        Args:
            texts: Strings, or rows with a ``text`` and perhaps ``id`` (or ``_id``) and ``title``: a list, a pandas
                column or data frame, a ``datasets`` column or data set. A text without an id has its number as its id.
            model: An encoder, or a model's path or name; None = search by BM25 alone.
            folder: Where to keep store and index for :meth:`open`; the same call resumes an interrupted one. None = a
                temporary folder that lasts as long as the retriever.
            language: ISO 639 code for BM25; None = search by vectors alone, which needs a model.
            device: Where a named model runs.
            dtype: Its number format.
            overwrite: Replace what the folder holds of other texts.
            split: Cut texts that are longer than a passage; None = leave them, and warn of those that the model does
                not read to their end.

        Raises:
            DataError: Something is not a text, two texts have one id, or there is none.
            OutputExistsError: The folder holds other texts.
            ModelError: The model cannot be used.
            ConfigError: Neither a model nor a language is given.
        """
        from llama2vec.model.encoder import Encoder

        passages = as_passages(texts)
        if model is None and language is None:
            raise ConfigError("without a model and without a language nothing can be searched; give one of them")
        encoder = model
        if encoder is not None and not isinstance(encoder, Encoder):
            encoder = Encoder.load(encoder, device=device, dtype=dtype)
        if split is not None:
            passages = _split(passages, encoder, split)
        if folder is None:
            home = Path(tempfile.mkdtemp(prefix="llama2vec-"))
            try:
                retriever = cls.from_texts(passages, encoder, home, language=language)
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
            weakref.finalize(retriever, shutil.rmtree, home, ignore_errors=True)
            return retriever
        home = Path(folder)
        source: dict[str, object] = {"corpus": "texts", "fingerprint": passages_sha256(passages)}
        if encoder is not None:
            source["model"] = encoder.spec.to_json(home / "store")
        store = write_store(
            lambda: passages, encoder, home / "store", source=source, overwrite=overwrite, total=len(passages)
        )
        warn_of_cut_passages(store, "cut them into passages with split=PassageSettings()")
        build_index(store, home / "index", bm25=language, overwrite=overwrite)
        return cls.open(home / "index", encoder)

    @property
    def store(self) -> VectorStore:
        """Vectors and passages."""
        return self.index.store

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What can be asked for; the first is the default."""
        has = {"dense": self.encoder is not None, "bm25": self._bm25 is not None}
        return tuple(mode for mode in ("hybrid", "dense", "bm25") if has.get(mode, all(has.values())))

    @property
    def default_mode(self) -> Mode:
        """The first of :attr:`modes`; where there is none, the one whose :meth:`check_mode` says what is missing."""
        return self.modes[0] if self.modes else "dense" if self.store.has_vectors else "bm25"

    def search(
        self,
        queries: Sequence[Query],
        mode: Mode | None = None,
        depth: int = 100,
        *,
        where: str | None = None,
        tag: str | None = None,
    ) -> Run:
        """Find the best passages of every query.

        Args:
            queries: The queries.
            mode: One of :attr:`modes`; None = the first.
            depth: Passages per query; ``bm25`` finds fewer where fewer share a word with the query.
            where: Search only among the passages that this filter allows, such as ``year >= 2020``; None = all. BM25
                keeps the statistics of the whole corpus.
            tag: Name of the system in the run; None = the mode.

        Raises:
            ConfigError: The mode is unknown, or the filter is not an expression over the fields.
            StoreError: The index does not carry the mode, or its store was rewritten since it was opened.
        """
        mode = mode or self.default_mode
        run, _ = self._search(queries, mode, depth, where, lambda: self._encoded(queries))
        return Run(run.results, tag or mode)

    def hits(
        self,
        question: str,
        mode: Mode | None = None,
        depth: int = 10,
        *,
        where: str | None = None,
        group: bool = False,
    ) -> list[Hit]:
        """Find the best passages of one question, with their texts.

        Args:
            question: The question.
            mode: As in :meth:`search`.
            depth: Passages, or with ``group`` documents.
            where: As in :meth:`search`.
            group: Return the best passage of each document, with the document's other passages in ``Hit.more``; a
                document stands where its best passage does (MaxP).

        Raises:
            ConfigError, StoreError: As in :meth:`search`.
        """
        asked, mode = [Query("question", question)], mode or self.default_mode
        vectors = cache(lambda: self._encoded(asked))
        reach = max(_FEWEST, _PER_DOCUMENT * depth) if group and depth > 0 else depth
        while True:
            with self._reading():
                run, row_of_id = self._search(asked, mode, reach, where, vectors)
                scores = run.results["question"]
                rows = [row_of_id[passage_id] for passage_id in scores]
                passages = self.store.passages(rows)
            ranked = zip(scores.values(), passages, rows, strict=True)
            found = [Hit(rank, score, passage, row) for rank, (score, passage, row) in enumerate(ranked, start=1)]
            if not group:
                return found
            documents = grouped(found, depth)
            if len(documents) == depth or len(found) < reach:
                return documents
            reach *= _PER_DOCUMENT

    def check_mode(self, mode: str) -> None:
        """Raise an error that says what to do unless the index can be searched by a mode."""
        if mode not in MODES:
            raise ConfigError(f"unknown search mode {mode!r}; choose one of {', '.join(MODES)}")
        if mode in self.modes:
            return
        how = "add it: `llama2vec index STORE -o INDEX --bm25`"
        if mode == "dense" or self._bm25 is not None:
            how = "give the model that encoded it"
        if mode != "bm25" and not self.store.has_vectors:
            how = f"add vectors: {self.store.how_to_add_vectors}"
        carried = ", ".join(self.modes) or "nothing"
        raise StoreError(f"{self.store.path} cannot be searched by {mode}, only by {carried}; {how}")

    def check_unchanged(self) -> None:
        """Raise a :class:`StoreError` if the store was rewritten or removed since it was opened."""
        if _stamp(self.store) != self._manifest:
            raise StoreError(f"{self.store.path} was rewritten or removed after it was opened; open the index again")

    def _search(
        self, queries: Sequence[Query], mode: Mode, depth: int, where: str | None, vectors: Callable[[], Vectors]
    ) -> tuple[Run, dict[str, int]]:
        """Return a run whose results stand best first, and the row of each passage in it.

        ``vectors`` returns those of the queries, and is called only by a mode that needs them.
        """
        self.check_mode(mode)
        if depth < 1:
            raise ConfigError(f"the depth must be at least 1, not {depth}")
        if not queries:
            return Run({}), {}
        is_hybrid = mode == "hybrid"
        modes: Iterable[Mode] = self.fusion.shares() if is_hybrid else [mode]
        reach = max(depth, FUSED_DEPTH) if is_hybrid else depth
        with self._reading():
            allowed = None if where is None else self.fields.rows(where)
            found: dict[Mode, tuple[Scores, Rows]] = {}
            for single in modes:
                if single == "bm25" and self._bm25 is not None:
                    found[single] = self._bm25.best_of_each([query.text for query in queries], reach, allowed)
                else:
                    found[single] = self.index.search(vectors(), reach, allowed)
            rows = np.unique(np.concatenate([rows[rows >= 0] for _, rows in found.values()]))
            id_of_row = dict(zip(rows.tolist(), self.store.passage_ids(rows), strict=True))
        runs = {single: _named(queries, id_of_row, *best) for single, best in found.items()}
        run = self.fusion.fuse(runs, depth) if is_hybrid else runs[mode]
        return run, {passage_id: row for row, passage_id in id_of_row.items()}

    def _encoded(self, queries: Sequence[Query]) -> Vectors:
        assert self.encoder is not None
        return self.encoder.encode_queries(queries)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Notice, also where reading fails, that the store is not the one that was opened."""
        try:
            yield
        except (StoreError, OSError, IndexError):
            self.check_unchanged()
            raise
        self.check_unchanged()


def _split(passages: Iterable[Passage], encoder: Encoder | None, settings: PassageSettings) -> list[Passage]:
    """Cut passages in the tokens of an encoder, or in words where there is none."""
    from llama2vec.model.tokens import encoder_splitter

    splitter = encoder_splitter(encoder, settings) if encoder else Splitter(settings, word_spans)
    return as_passages(part for passage in passages for part in splitter.split_row(passage))


class _EncoderOfStore:
    """The model that a store names, or another one, loaded by the first query."""

    def __init__(self, store: VectorStore, model: str | Path | None, settings: ModelSettings) -> None:
        self.contract_hash = store.contract_hash
        self._store, self._model, self._settings = store, model, settings
        self._encoder: QueryEncoder | None = None

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """See :class:`QueryEncoder`."""
        if self._encoder is None:
            from llama2vec.model.encoder import Encoder
            from llama2vec.model.source import ModelSpec

            spec = ModelSpec.of_store(self._store.source, self._store.path, self._model)
            encoder = Encoder.from_spec(spec, self._settings)
            check_contract(self._store, encoder)
            self._encoder = encoder
        return self._encoder.encode_queries(queries)


def check_contract(store: VectorStore, encoder: QueryEncoder) -> None:
    """Raise a :class:`StoreError` unless queries are encoded the way the passages were."""
    store.check_vectors()
    if store.contract_hash != encoder.contract_hash:
        raise StoreError(
            f"{store.path} was encoded under contract {store.contract_hash[:12]} and the query model has "
            f"{encoder.contract_hash[:12]}; search with the model that encoded it, or encode the corpus again"
        )


def _stamp(store: VectorStore) -> tuple[int, int, int] | None:
    """Return what changes when a store's manifest is written again; None where it is gone."""
    try:
        status = (store.path / STORE_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _named(queries: Sequence[Query], id_of_row: Mapping[int, str], scores: Scores, rows: Rows) -> Run:
    """Return the [Q, K] scores and rows of one mode as a run, best first."""
    results = {
        query.id: {id_of_row[row]: score for row, score in zip(best, values, strict=True) if row >= 0}
        for query, best, values in zip(queries, rows.tolist(), scores.tolist(), strict=True)
    }
    return Run(results)

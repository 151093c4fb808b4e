"""Retriever: search one corpus by vectors (dense), by words (BM25), or by both together (hybrid).

Where an index has BM25, hybrid is the default: BM25 scores and cosines, each scaled by min-max. On seven data sets that
beat either of the two alone, and reciprocal ranks (docs/results.md).
"""

from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from llama2vec.config import ModelSettings
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import Llama2VecError, StoreError, StoreReplacedError
from llama2vec.model.source import scratch_folder
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.index.exact import Index, Rows, Scores, check_depth
from llama2vec.retrieve.index.filters import PassageFields
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import FUSED_DEPTH, Fusion, Mode
from llama2vec.retrieve.search.hits import Hit, grouped, with_beginnings
from llama2vec.retrieve.search.opened import EncoderOfStore, OpenedIndex, QueryEncoder
from llama2vec.retrieve.search.texts import (
    as_passages,
    as_queries,
    as_question,
    check_distinct,
    check_ways,
    split_passages,
)
from llama2vec.retrieve.store.number_format import warn_of_another_format
from llama2vec.retrieve.store.reader import Vectors, VectorStore, store_passages
from llama2vec.retrieve.store.writer import passages_sha256, warn_of_cut_passages, write_store

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

_TRIES = 5
_FEWEST, _PER_DOCUMENT = 50, 10
"""Passages that are searched for documents, at least and for each of them; more where these are of too few."""


class Retriever:
    """A corpus that can be searched by any mode that its index carries.

    A search reads one state of the index. If the index is replaced, as by ``sync``, the next search opens the new one,
    and a search under way is done again on it.

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
        self.fusion = fusion or Fusion()
        fields = fields or PassageFields(lambda: store_passages(index.store))
        self._encoder_for: Callable[[OpenedIndex], QueryEncoder | None] = lambda opened: encoder
        self._opened = OpenedIndex.of_parts(index, bm25, fields).with_encoder(encoder)
        self._opening = Lock()

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: QueryEncoder | str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        fusion: Fusion | None = None,
        by_words: bool = False,
    ) -> Retriever:
        """Open an index folder, or a vector store.

        Args:
            path: What `llama2vec index` or `encode` wrote, or the folder of :meth:`from_texts`.
            encoder: The encoder that made the vectors, or a model's path or name; None = the model that the store
                names. A model is loaded by the first search that needs vectors.
            device: Where that model runs.
            dtype: Its number format.
            fusion: How ``hybrid`` mixes; None = the defaults of :class:`Fusion`.
            by_words: It will be searched by BM25 alone, so nothing is said of vectors that it lacks.

        Raises:
            StoreError: The index does not exist, is damaged or belongs to another store, or the encoder's contract
                differs.
        """
        opened = OpenedIndex.open(Path(path))
        store = opened.index.store
        if not (store.has_vectors or by_words):
            how = store.how_to_add_vectors
            logger.info("%s has no vectors, so it is searched with BM25 only; add them with %s", store.path, how)
        settings = ModelSettings.model_validate({"device": device, "dtype": dtype})

        def encoder_for(state: OpenedIndex) -> QueryEncoder:
            if encoder is None or isinstance(encoder, str | Path):
                return EncoderOfStore(state.store, encoder, settings)
            return encoder

        retriever = cls(opened.index, encoder_for(opened), bm25=opened.bm25, fusion=fusion, fields=opened.fields)
        retriever._encoder_for = encoder_for
        retriever._opened = opened.with_encoder(retriever.encoder)
        return retriever

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
            overwrite: Replace what the folder holds of other texts, or in another language.
            split: Cut long texts into passages; None = warn of those that the model does not read to their end.

        Raises:
            DataError: Something is not a text, two texts have one id, or there is none.
            OutputExistsError: The folder holds other texts, or BM25 in another language.
            ModelError: The model cannot be used.
            ConfigError: Neither a model nor a language is given.
        """
        from llama2vec.model.encoder import Encoder

        check_ways(model, language, split)
        passages = as_passages(texts)
        encoder = model
        if encoder is not None and not isinstance(encoder, Encoder):
            encoder = Encoder.load(encoder, device=device, dtype=dtype)
        passages = split_passages(passages, encoder, split) if split else passages
        if folder is None:
            with ExitStack() as stack:
                home = stack.enter_context(scratch_folder(Path(tempfile.gettempdir()), "llama2vec-"))
                retriever = cls.from_texts(passages, encoder, home, language=language)
                weakref.finalize(retriever, stack.pop_all().close)
            return retriever
        home = Path(folder)
        source: dict[str, object] = {"corpus": "texts", "fingerprint": passages_sha256(passages)}
        if encoder is not None:
            source["model"] = encoder.spec.to_json(home / "store")
        store = write_store(
            lambda: passages, encoder, home / "store", source=source, overwrite=overwrite, total=len(passages)
        )
        warn_of_another_format(store, dtype)
        warn_of_cut_passages(store, "cut them into passages with split=PassageSettings()")
        build_index(store, home / "index", bm25=language, keeps_bm25=False, overwrite=overwrite)
        return cls.open(home / "index", encoder)

    @property
    def index(self) -> Index:
        """The index over the vectors."""
        return self._opened.index

    @property
    def store(self) -> VectorStore:
        """Vectors and passages."""
        return self._opened.index.store

    @property
    def fields(self) -> PassageFields:
        """What filters read of the passages."""
        return self._opened.fields

    @property
    def encoder(self) -> QueryEncoder | None:
        """For the queries; None = search by ``bm25`` alone."""
        return self._opened.encoder

    def encode_with(self, encoder_for: Callable[[OpenedIndex], QueryEncoder | None]) -> None:
        """Ask for the encoder of this and each later state of the index; None = ``bm25`` alone searches that state."""
        with self._opening:
            self._encoder_for = encoder_for
            self._opened = self._opened.with_encoder(encoder_for(self._opened))

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What can be asked for; the first is the default."""
        return self._opened.modes

    @property
    def default_mode(self) -> Mode:
        """The first of :attr:`modes`; where there is none, the one whose :meth:`check_mode` says what is missing."""
        return self._opened.default_mode

    def search(
        self,
        queries: Sequence[Query],
        mode: Mode | None = None,
        depth: int = 100,
        *,
        where: str | None = None,
        tag: str | None = None,
        warns: bool = True,
    ) -> Run:
        """Find the best passages of every query.

        Args:
            queries: The queries.
            mode: One of :attr:`modes`; None = the first.
            depth: Passages per query; ``bm25`` finds fewer where fewer share a word with the query.
            where: Search only among the passages that this filter allows, such as ``year >= 2020``; None = all. BM25
                keeps the statistics of the whole corpus.
            tag: Name of the system in the run; None = the mode.
            warns: Warn of queries that the model does not read whole; False = the caller does.

        Raises:
            ConfigError: The mode is unknown, or the filter is not an expression over the fields.
            DataError: Something is not a :class:`Query`, or two queries have one id.
            StoreError: The index does not carry the mode.
            StoreReplacedError: The index was replaced since it was opened, and cannot be opened again.
        """
        queries = as_queries(queries)

        def search(opened: OpenedIndex) -> Run:
            chosen = mode or opened.default_mode
            vectors = partial(opened.encoded, queries, warns=warns)
            run, _ = self._search(opened, queries, chosen, depth, where, vectors)
            return Run(run.results, tag or chosen)

        return self.on_present(search)

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
            group: Return the best passage of each document, with those of its other passages in ``Hit.more`` that rank
                nearly as high; a document stands where its best passage does (MaxP).

        Raises:
            ConfigError, StoreError: As in :meth:`search`.
            DataError: The question is not a string.
        """
        asked = [as_question(question)]
        check_depth(depth)

        def search(opened: OpenedIndex) -> list[Hit]:
            vectors = cache(lambda: opened.encoded(asked))
            reach = near = max(_FEWEST, _PER_DOCUMENT * depth) if group else depth
            while True:
                chosen = mode or opened.default_mode
                run, row_of_id = self._search(opened, asked, chosen, reach, where, vectors)
                scores = run.results["question"]
                rows = [row_of_id[passage_id] for passage_id in scores]
                # Those below the fused ones are ordered by scores just below 0.
                shown = [max(score, 0.0) if chosen == "hybrid" else score for score in scores.values()]
                ranked = zip(shown, opened.index.store.passages(rows), rows, strict=True)
                found = [Hit(rank, score, passage, row) for rank, (score, passage, row) in enumerate(ranked, start=1)]
                if not group:
                    return with_beginnings(opened.index.store, found)
                documents = grouped(found, depth, near)
                if len(documents) == depth or len(found) < reach:
                    return with_beginnings(opened.index.store, documents)
                reach *= _PER_DOCUMENT

        return self.on_present(search)

    def check_mode(self, mode: str) -> None:
        """Raise an error that says what to do unless the index can be searched by a mode."""
        self._opened.check_mode(mode)

    def check_unchanged(self) -> None:
        """Open the index again if it was replaced; a :class:`StoreReplacedError` if that is impossible."""
        if not self._opened.is_present:
            self._open_again(self._opened)

    def on_present(self, search: Callable[[OpenedIndex], ResultT]) -> ResultT:
        """Search or read the present state of the index; if it is replaced meanwhile, do so again in the new one."""
        for last in (*[False] * (_TRIES - 1), True):
            opened = self._opened
            try:
                result = search(opened)
                fault = None
            except (StoreError, OSError, IndexError) as error:
                fault = error
            if opened.is_present:
                if fault:
                    raise fault
                return result
            self._open_again(opened)
            if last:
                break
        raise StoreReplacedError(f"{self.store.path} is replaced faster than it can be searched; try again later")

    def _open_again(self, before: OpenedIndex) -> None:
        """Let the state that is in the place of another one be the present one."""
        with self._opening:
            if self._opened is not before:
                return
            problem = f"{self.store.path} was rewritten or removed after it was opened"
            if before.folder is None:
                raise StoreReplacedError(f"{problem}; open the index again")
            try:
                opened = before.again()
                self._opened = opened.with_encoder(self._encoder_of(opened))
            except (Llama2VecError, OSError) as error:
                raise StoreReplacedError(f"{problem}, and the index cannot be opened again: {error}") from error

    def _encoder_of(self, opened: OpenedIndex) -> QueryEncoder | None:
        """Return the encoder for a state; a model that is loaded stays loaded where it made these vectors too."""
        encoder = self._opened.encoder
        if isinstance(encoder, EncoderOfStore) and encoder.contract_hash == opened.store.contract_hash:
            return encoder
        return self._encoder_for(opened)

    def _search(
        self,
        opened: OpenedIndex,
        queries: Sequence[Query],
        mode: Mode,
        depth: int,
        where: str | None,
        vectors: Callable[[], Vectors],
    ) -> tuple[Run, dict[str, int]]:
        """Return a run whose results stand best first, and the row of each passage in it.

        ``vectors`` returns those of the queries, and is called only by a mode that needs them.
        """
        opened.check_mode(mode)
        check_depth(depth)
        if not queries:
            return Run({}), {}
        check_distinct((query.id for query in queries), "queries")
        is_hybrid = mode == "hybrid"
        modes: Iterable[Mode] = self.fusion.shares() if is_hybrid else [mode]
        reach = max(depth, FUSED_DEPTH) if is_hybrid else depth
        allowed = None if where is None else opened.fields.rows(where)
        found: dict[Mode, tuple[Scores, Rows]] = {}
        for single in modes:
            if single == "bm25" and opened.bm25 is not None:
                found[single] = opened.bm25.best_of_each([query.text for query in queries], reach, allowed)
            else:
                found[single] = opened.index.search(vectors(), reach, allowed)
        rows = np.unique(np.concatenate([rows[rows >= 0] for _, rows in found.values()]))
        id_of_row = dict(zip(rows.tolist(), opened.index.store.passage_ids(rows), strict=True))
        runs = {single: _named(queries, id_of_row, *best) for single, best in found.items()}
        run = self.fusion.fuse(runs, depth) if is_hybrid else runs[mode]
        return run, {passage_id: row for row, passage_id in id_of_row.items()}


def _named(queries: Sequence[Query], id_of_row: Mapping[int, str], scores: Scores, rows: Rows) -> Run:
    """Return the [Q, K] scores and rows of one mode as a run, best first."""
    results = {
        query.id: {id_of_row[row]: score for row, score in zip(best, values, strict=True) if row >= 0}
        for query, best, values in zip(queries, rows.tolist(), scores.tolist(), strict=True)
    }
    return Run(results)

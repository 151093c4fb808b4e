"""What the service answers from: a model, an index, or both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from llama2vec.errors import StoreError, StoreReplacedError
from llama2vec.model.lengths import NOUNS, Cut, warn_of_limit
from llama2vec.model.prompt import count_longer, prompted_texts
from llama2vec.records import Query, Side, Vectors
from llama2vec.retrieve.search.fusion import Mode
from llama2vec.retrieve.search.hits import Hit
from llama2vec.retrieve.search.opened import LimitedQueryEncoder, OpenedIndex, check_contract
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.serve.batcher import Lengths

if TYPE_CHECKING:
    from llama2vec.explain.explanation import Explainer, Explanation
    from llama2vec.model.encoder import Encoder
    from llama2vec.retrieve.search.query_table import QueryTable

ResultT = TypeVar("ResultT")


class CutTexts:
    """Says in the log that texts are longer than the model reads, once for each side; the metrics count them all."""

    def __init__(self) -> None:
        self._told: set[Side] = set()

    def note(self, cut: Cut, total: int, side: Side) -> None:
        """Warn of the first texts of a side that are cut."""
        if cut.texts and side not in self._told:
            self._told.add(side)
            # No setting of the service raises a limit.
            warn_of_limit(cut, total, "", noun=NOUNS[side])


class ServedModel:
    """An encoder under the name that clients call it by, with the two calls that the batcher makes."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self.encoder = encoder
        self.name = name
        self.dimension = encoder.dimension
        self.contract_hash = encoder.contract_hash
        self.batch_tokens = encoder.batch_tokens
        # A tokenizer stores the limit of the current call, so two threads cannot share one.
        self._tokenizer = copy.deepcopy(encoder.backbone.tokenizer)
        self._told = CutTexts()

    def count_tokens(self, texts: Sequence[str], side: Side) -> Lengths:
        """See :class:`TextEncoder`."""
        prompt, most = self.encoder.reading(side)
        read = prompted_texts(self._tokenizer, texts, self.encoder.contract.ids, prompt, most)
        # Not by the encoder, whose tokenizer is another thread's.
        cut = Cut(count_longer(self._tokenizer, texts, most), most)
        self._told.note(cut, len(texts), side)
        return Lengths([len(ids) for ids in read], cut.texts)

    def encode(self, texts: Sequence[str], side: Side) -> Vectors:
        """Return [N, D] unit vectors."""
        return self.encoder.encode_queries(texts) if side == "query" else self.encoder.encode_passages(texts)

    def explain(self, query: str, passage: str) -> Explanation:
        """Return the words that the vectors of a query and a passage stand for; called in the thread of the model.

        Raises:
            ModelError: The model's vectors cannot be explained.
        """
        return self._explainer.explain(query, passage)

    @cached_property
    def _explainer(self) -> Explainer:
        from llama2vec.explain.explanation import Explainer

        return Explainer(self.encoder)


class PreparedQuery:
    """Takes the encoder's place in a search whose query vector the batcher or a query table has made.

    Searches run on a thread of their own and never call the model, so a search can be cancelled while it waits.
    """

    def __init__(self, contract_hash: str) -> None:
        self.contract_hash = contract_hash
        self.vector: Vectors | None = None
        """[1, D] of the query that is searched for; set by the searching thread."""

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return :attr:`vector`."""
        assert self.vector is not None
        return self.vector


class StoreChangedError(Exception):
    """The store was rewritten while it was being served."""


class ModeGoneError(StoreError):
    """The index was replaced since a search was asked for, and the new one cannot be searched in that mode."""


@dataclass(frozen=True, slots=True)
class Search:
    """A question and how to search for its answers, as :meth:`Retriever.hits` takes them."""

    question: str
    mode: Mode
    depth: int
    where: str | None = None
    group: bool = False
    quick: bool = False  # By the query table rather than by the model, where there is one


@dataclass(frozen=True, slots=True)
class TimedHits(Generic[ResultT]):
    """The answers to a question as they are shown, and where the time went."""

    hits: list[ResultT]
    encode_ms: float | None  # Until the model's vector was there, queueing included; None = the model was not asked
    search_ms: float  # Until the passages were there, queueing included
    quick: bool = False  # Whether the query table stood in for the model
    cut: int = 0  # How many questions, 0 or 1, were read only to the limit of the model


@dataclass(frozen=True)
class Loaded:
    """What the service answers from."""

    model: ServedModel | None  # The encoder; None = no embeddings, and search by words alone
    retriever: Retriever | None = None  # The index, opened with ``query`` as its encoder; None = embeddings only
    query: PreparedQuery | None = None  # Takes the vector of the query that is searched for; None = ``bm25`` alone
    table: QueryTable | None = None  # Encodes quick queries; without a model, all queries
    told: CutTexts = field(default_factory=CutTexts)  # What was said of questions that the table cuts
    named: bool = False  # Whether the user chose model or table, so that no other takes their place

    @classmethod
    def with_index(
        cls, model: ServedModel | None, retriever: Retriever, table: QueryTable | None = None, *, named: bool = False
    ) -> Loaded:
        """Serve an index that was opened without an encoder; without vectors, it needs neither model nor table.

        Later states of the index that have vectors of another model are searched by BM25 alone.

        Raises:
            StoreError: The index was made with another encoder.
        """
        query = None
        for encoder in (table, model):
            if encoder is not None and retriever.store.has_vectors:
                query = PreparedQuery(encoder.contract_hash)
                check_contract(retriever.store, query)
        known = query.contract_hash if query else ""

        def encoder_for(opened: OpenedIndex) -> PreparedQuery | None:
            # An index without words cannot be searched at all; opening it fails with this encoder.
            return None if opened.bm25 is not None and opened.store.contract_hash != known else query

        retriever.encode_with(encoder_for)
        return cls(model, retriever, query, table, named=named)

    @property
    def contract_hash(self) -> str:
        """How questions are encoded; "" with neither model nor table."""
        encoder = self.model or self.table
        return encoder.contract_hash if encoder else ""

    @property
    def is_behind(self) -> bool:
        """Whether the index has got vectors that are not searched: those of another model, or the first ones."""
        if self.retriever is None or not self.retriever.store.has_vectors:
            return False
        return self.query is None or self.query.contract_hash != self.retriever.store.contract_hash

    @property
    def is_stuck(self) -> bool:
        """Whether the index has got vectors that only a restart can search, because the user named another model."""
        of_another = self.retriever is not None and self.contract_hash not in ("", self.retriever.store.contract_hash)
        return self.is_behind and self.named and of_another

    @property
    def quick(self) -> bool:
        """Whether quick searches take no pass through the model."""
        return self.query is None or self.table is not None or self.is_behind

    def asks_model(self, asked: Search) -> bool:
        """Tell whether a search needs the model's vector of its question."""
        return asked.mode != "bm25" and self.model is not None and not (asked.quick and self.table)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """How the index can be searched; the first is the default."""
        return tuple(self.retriever.modes) if self.retriever else ()

    @property
    def coming(self) -> tuple[Mode, ...]:
        """The modes that vectors add which the index got after it was opened, until the model for them is there."""
        if not self.is_behind or self.is_stuck:
            return ()
        return tuple(mode for mode in ("hybrid", "dense") if mode not in self.modes)

    def check_store(self) -> StoreError | None:
        """Open the index again where it was rewritten; return why that is impossible, None = it is open."""
        try:
            if self.retriever:
                self.retriever.check_unchanged()
        except StoreError as error:
            return error
        return None

    def hits(self, asked: Search, vector: Vectors | None) -> list[Hit]:
        """Search in the calling thread, one search at a time.

        Raises:
            StoreChangedError: The index was replaced, and cannot be opened again.
            ModeGoneError: The index was replaced, and the new one lacks the mode.
        """
        if self.query is not None:
            if vector is None and self.table is not None and asked.mode != "bm25":
                vector = self.table.encode_queries([asked.question])
            self.query.vector = vector
        with self._faults_told(asked.mode) as retriever:
            return retriever.hits(asked.question, asked.mode, asked.depth, where=asked.where, group=asked.group)

    def cut_by_table(self, asked: Search) -> int:
        """Return how many questions (0 or 1) the query table reads only the beginning of, where it encoded this one."""
        if asked.mode == "bm25" or self.asks_model(asked) or not isinstance(self.table, LimitedQueryEncoder):
            return 0
        cut = self.table.cut_queries([Query("question", asked.question)])
        self.told.note(cut, 1, "query")
        return cut.texts

    def read(self, function: Callable[[OpenedIndex], ResultT]) -> ResultT:
        """Read from the present state of the index in the calling thread; errors as of :meth:`hits`."""
        with self._faults_told() as retriever:
            return retriever.on_present(function)

    @contextmanager
    def _faults_told(self, mode: Mode | None = None) -> Iterator[Retriever]:
        assert self.retriever is not None
        try:
            yield self.retriever
        except StoreError as error:
            fault = error if isinstance(error, StoreReplacedError) else self.check_store()
            if fault is not None:
                raise StoreChangedError(str(fault)) from error
            if mode is not None and mode not in self.modes:
                raise ModeGoneError(str(error)) from error
            raise

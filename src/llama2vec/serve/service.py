"""The service without HTTP: a model that loads in the background, the batcher, and the index."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from llama2vec.errors import EngineError, Llama2VecError, ModelError, NotFiniteError, StoreError, one_line
from llama2vec.records import Passage, Side
from llama2vec.retrieve.search.fusion import Mode
from llama2vec.retrieve.search.hits import Hit
from llama2vec.retrieve.search.opened import OpenedIndex
from llama2vec.serve.batcher import Batch, Batcher, Encoded, EncodingError, QueueFullError
from llama2vec.serve.loaded import Loaded, Search, ServedModel, StoreChangedError, TimedHits
from llama2vec.serve.settings import ServeSettings

if TYPE_CHECKING:
    from llama2vec.explain.explanation import Explanation
    from llama2vec.retrieve.store.reader import VectorStore

logger = logging.getLogger(__name__)


ResultT = TypeVar("ResultT")
Show = Callable[[list[Hit], "VectorStore"], list[ResultT]]
State = Literal["ok", "loading", "failing", "store_changed", "engine_unavailable"]

_PROBE = "Is it ready?"
_CHECK_SECONDS = 0.25
"""How long the state waits for a check of the index: a new one may take seconds to open."""
_ASK_AGAIN_SECONDS = 5.0
"""Between two checks of a vector database that did not answer: each may take as long as its time limit."""
_RETIRE_SECONDS = 0.1
"""Between two looks whether a model that was replaced still has requests to answer."""
_ASKS_ENGINE = 1000
"""Up to this depth, the vector database answers each search without a filter; the store alone may answer others."""


class Service:
    """Loads in the background (``load`` is called once, in a thread), then embeds and searches."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        settings: ServeSettings,
        on_batch: Callable[[Batch], None] = lambda batch: None,
        on_cut: Callable[[Side, int], None] = lambda side, texts: None,
    ) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.loaded: Loaded | None = None
        """None until the model has answered once."""
        self._following: asyncio.Task[None] | None = None
        self._refused = ""
        """The contract of vectors whose model could not be loaded."""
        self._load, self._on_batch, self._on_cut = load, on_batch, on_cut
        self._batcher: Batcher | None = None
        # One: BM25's stemmer must not be used by two threads at once, and a large product uses all cores by itself.
        self._searches = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._searching = 0
        self._search_began: float | None = None
        """When the thread of the searches began what it does; None = it is idle."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._index_state: State = "ok"
        """What the last search or check of the index found."""
        self._checking: asyncio.Future[None] | None = None
        self._lost_at = 0.0
        """When the vector database last failed."""

    @property
    def waiting(self) -> int:
        """Texts queued or being encoded."""
        return self._batcher.waiting if self._batcher else 0

    @property
    def state(self) -> State:
        """Whether requests can be answered, and if not, why; of the index, what the last check found."""
        if self.loaded is None:
            return "loading"
        # A batch or a search that outlasts the time limit has no caller left.
        longest = 2 * self.settings.timeout_seconds
        began = self._search_began
        if began is not None and time.monotonic() - began > longest:
            return "failing"
        return "failing" if self._batcher and self._batcher.is_failing(longest) else self._index_state

    async def check(self) -> State:
        """Check the index, which may open it again, and return :attr:`state`; a slow check ends in the background."""
        if self.loaded is not None and self.loaded.retriever is not None:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.ensure_future(self._check(self.loaded))
            await asyncio.wait({self._checking}, timeout=_CHECK_SECONDS)
            if self._checking.done():
                self._checking.result()
        if self.state == "ok":
            self._follow()
        return self.state

    async def _check(self, loaded: Loaded) -> None:
        fault = await asyncio.get_running_loop().run_in_executor(self._searches, self._timed, loaded.check_store)
        if fault is not None or self._index_state != "engine_unavailable":
            self._note_store(fault)
        elif time.monotonic() - self._lost_at >= _ASK_AGAIN_SECONDS:
            with suppress(StoreError, StoreChangedError, QueueFullError, NotFiniteError, EncodingError):
                await self._search(loaded, self._batcher, Search(_PROBE, loaded.modes[0], 1), _as_found)

    async def start(self) -> Loaded:
        """Load, and answer once: the first pass of a model is slow, and no client should wait for it.

        Raises:
            Llama2VecError: The model or the index cannot be used.
        """
        await self._load_all()
        assert self.loaded is not None
        return self.loaded

    async def _load_all(self) -> None:
        """Load, and answer from what was loaded after it has answered a test; what is there answers until that time."""
        loaded = await _in_daemon_thread(self._load)
        batcher = self._new_batcher(loaded.model) if loaded.model else None
        try:
            if loaded.model and batcher:
                await self._try(loaded.model, batcher)
            for mode in loaded.modes:
                await self._search(loaded, batcher, Search(_PROBE, mode, 1), _as_found)
        except BaseException:
            if batcher:
                await batcher.close()
            raise
        before, self._batcher, self.loaded = self._batcher, batcher, loaded
        if before:
            task = asyncio.ensure_future(self._retire(before))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire(self, batcher: Batcher) -> None:
        """Let a model that was replaced answer what it has accepted."""
        try:
            while batcher.waiting:
                await asyncio.sleep(_RETIRE_SECONDS)
        finally:
            await batcher.close()

    @property
    def coming(self) -> tuple[Mode, ...]:
        """The modes that follow once the model of the index's new vectors is loaded."""
        return () if self.loaded is None or self._is_refused(self.loaded) else self.loaded.coming

    def _is_refused(self, loaded: Loaded) -> bool:
        return loaded.retriever is not None and loaded.retriever.store.contract_hash == self._refused

    def _follow(self) -> None:
        """Load the model in the background where the index has got vectors since; until then, words answer."""
        words, idle = self.loaded, self._following is None or self._following.done()
        if idle and words and words.is_behind and not self._is_refused(words):
            self._following = asyncio.ensure_future(self._load_for_vectors(words))

    async def _load_for_vectors(self, words: Loaded) -> None:
        assert words.retriever is not None
        store = words.retriever.store
        try:
            if words.is_stuck:
                raise StoreError(
                    "another model than the named one encoded them; restart the service with the index's model"
                )
            if words.model and words.model.contract_hash == store.contract_hash:
                # A model that was named for embeddings may be the one of the vectors, and is not loaded twice.
                self.loaded = Loaded.with_index(words.model, words.retriever, words.table, named=words.named)
            else:
                await self._load_all()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # what a model's library raises, too: it would be loaded again for each search
            self._refused = store.contract_hash
            told = str(error) if isinstance(error, Llama2VecError) else one_line(error)
            logger.warning("%s has new vectors, but BM25 alone still answers: %s", store.path, told)
        else:
            modes = ", ".join(self.loaded.modes) if self.loaded else "none"
            logger.info("%s has new vectors; search modes: %s", store.path, modes)

    def _new_batcher(self, model: ServedModel) -> Batcher:
        return Batcher(
            model,
            max_batch=self.settings.max_batch,
            max_batch_tokens=self.settings.max_batch_tokens or model.batch_tokens,
            max_wait_seconds=self.settings.max_wait_ms / 1000,
            max_waiting=self.settings.max_waiting,
            on_batch=self._on_batch,
        )

    async def _try(self, model: ServedModel, batcher: Batcher) -> None:
        try:
            await self._embed(batcher, [_PROBE], "passage")
            await self._embed(batcher, [_PROBE], "query")
        except NotFiniteError:
            raise ModelError(
                f"{model.name}: its vectors are not finite numbers; serve it with --dtype float32"
            ) from None
        except EncodingError as error:
            raise ModelError(f"{model.name}: cannot encode ({one_line(error.__cause__ or error)})") from error

    async def stop(self) -> None:
        """Stop the threads."""
        self._searches.shutdown(wait=False, cancel_futures=True)
        for task in (self._following, self._checking, *self._retiring):
            if task:
                task.cancel()
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await batcher.close()

    def embed(self, texts: Sequence[str], side: Side) -> Coroutine[Any, Any, Encoded]:
        """Embed texts together with those of other requests, with the model that is loaded at the time of the call.

        Errors of :meth:`Batcher.encode`, and of NaN vectors.
        """
        return self._embed(self._batcher, texts, side)

    async def _embed(self, batcher: Batcher | None, texts: Sequence[str], side: Side) -> Encoded:
        assert batcher is not None
        encoded = await batcher.encode(texts, side)
        if not np.isfinite(encoded.vectors).all():
            raise NotFiniteError("a vector is not finite")
        if encoded.cut:
            self._on_cut(side, encoded.cut)
        return encoded

    async def search(self, asked: Search, show: Show[ResultT]) -> TimedHits[ResultT]:
        """Return the best passages for a question, as ``show`` makes them in the thread of the searches.

        ``show`` takes the hits, and the store of the state of the index that they were found in.

        Errors as in :meth:`embed` and :meth:`Loaded.hits`.
        """
        assert self.loaded is not None
        try:
            return await self._search(self.loaded, self._batcher, asked, show)
        finally:
            self._follow()

    async def read(self, function: Callable[[OpenedIndex], ResultT]) -> ResultT:
        """Read from the present state of the index in the thread of the searches."""
        assert self.loaded is not None
        return await self._in_search_thread(partial(self.loaded.read, function))

    async def explain(self, question: str, passage: Passage) -> Explanation:
        """Return why a passage matches a question, by the words that their vectors stand for.

        Raises:
            ModelError: The model's vectors cannot be explained.
            QueueFullError: Too many requests wait for an explanation.
        """
        assert self._batcher is not None
        assert self.loaded is not None
        assert self.loaded.model is not None
        return await self._batcher.run(partial(self.loaded.model.explain, question, passage.full_text))

    async def _search(
        self, loaded: Loaded, batcher: Batcher | None, asked: Search, show: Show[ResultT]
    ) -> TimedHits[ResultT]:
        started = encoded = time.monotonic()
        vector, by_model, cut = None, loaded.asks_model(asked), 0
        if by_model:
            read = await self._embed(batcher, [asked.question], "query")
            vector, cut = read.vectors, read.cut
            encoded = time.monotonic()

        def search() -> tuple[list[ResultT], float, int]:
            hits = loaded.hits(asked, vector)
            found = time.monotonic()
            self._note_answer(asked)
            assert loaded.retriever is not None
            # Only this thread opens an index again, so the store is the one that was searched.
            return show(hits, loaded.retriever.store), found, loaded.cut_by_table(asked)

        hits, found, cut_by_table = await self._in_search_thread(search)
        encode_ms = None if vector is None else 1000 * (encoded - started)
        quick = asked.mode != "bm25" and loaded.model is not None and not by_model
        if cut_by_table:
            self._on_cut("query", cut_by_table)
        return TimedHits(hits, encode_ms, 1000 * (found - encoded), quick, cut + cut_by_table)

    async def _in_search_thread(self, function: Callable[[], ResultT]) -> ResultT:
        if self._searching >= self.settings.max_waiting:
            raise QueueFullError(1)
        self._searching += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._searches, self._timed, partial(self._noting_faults, function)
            )
        finally:
            self._searching -= 1

    def _timed(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function in the thread of the searches, and note how long it has been at it."""
        self._search_began = time.monotonic()
        try:
            return function()
        finally:
            self._search_began = None

    def _note_answer(self, asked: Search) -> None:
        if self._index_state != "engine_unavailable":
            self._note_store(None)
        elif asked.mode != "bm25" and asked.where is None and asked.depth <= _ASKS_ENGINE:
            self._index_state = "ok"
            logger.info("the vector database answers again")

    def _note_store(self, fault: Exception | None) -> None:
        """Say once in the log why the index cannot be opened again, and once that it is open."""
        before, self._index_state = self._index_state, "ok" if fault is None else "store_changed"
        if fault is not None and before != "store_changed":
            logger.warning("searches fail until this is mended: %s", fault)
        elif fault is None and before == "store_changed":
            logger.info("the index is open again")

    def _noting_faults(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function; in the thread, because an engine that hangs fails after the request has been given up."""
        try:
            return function()
        except StoreChangedError as error:
            self._note_store(error)
            raise
        except EngineError as error:
            if self.loaded is not None and self._index_state != "engine_unavailable":  # once, not for each request
                logger.warning("searches by vectors fail until this is mended: %s", error)
            self._index_state, self._lost_at = "engine_unavailable", time.monotonic()
            raise


def _as_found(hits: list[Hit], store: VectorStore) -> list[Hit]:
    return hits


async def _in_daemon_thread(function: Callable[[], ResultT]) -> ResultT:
    """Run a function in a thread that does not keep the process alive: a model may load for minutes."""
    future: Future[ResultT] = Future()

    def run() -> None:
        # From here on the future cannot be cancelled, so setting it cannot fail.
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function())
        except BaseException as error:  # handed to the waiting task
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="load").start()
    return await asyncio.wrap_future(future)

"""The service without HTTP: a model that loads in the background, the batcher, and the searcher."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from llama2vec.retrieve.modes import Fusion, Mode
from llama2vec.retrieve.search import Hit
from llama2vec.serve.batcher import Batch, Batcher, Encoded, Lane, QueueFullError, Side, TextEncoder
from llama2vec.serve.model import PreparedQuestions
from llama2vec.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

_LANES_OF_MODE: dict[Mode, tuple[Lane, ...]] = {"dense": ("query",), "bm25": (), "sparse": ("words",)}
"""What a search by each single mode needs of the model."""


class NamedEncoder(TextEncoder, Protocol):
    """What the service needs to know of a model beside how to call it."""

    name: str
    dimension: int
    contract_hash: str
    batch_tokens: int


class Searcher(Protocol):
    """What the service needs of an index; what the model makes of a question comes from :class:`PreparedQuestions`."""

    @property
    def modes(self) -> Sequence[Mode]:
        """What the index can be searched by; the first is the default."""
        ...

    def hits(self, question: str, mode: Mode, depth: int) -> list[Hit]:
        """Return the best passages, best first."""
        ...


@dataclass(frozen=True)
class Loaded:
    """What the service answers from.

    Attributes:
        model: The encoder.
        searcher: The index; None = embeddings only.
        questions: The encoder that the searcher was opened with.
    """

    model: NamedEncoder
    searcher: Searcher | None = None
    questions: PreparedQuestions | None = None


class Service:
    """Loads in the background, then embeds and searches.

    Args:
        load: Opens model and index; called once, in a thread.
        settings: Limits.
        on_batch: Told of every batch of the encoder.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        settings: ServeSettings,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.loaded: Loaded | None = None
        """None until the model has answered once."""
        self.failure: BaseException | None = None
        """Why loading failed."""
        self._load, self._on_batch = load, on_batch
        self._batcher: Batcher | None = None
        # One: BM25's stemmer must not be used by two threads at once, and a large product uses all cores by itself.
        self._searches = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._searching = 0

    @property
    def waiting(self) -> int:
        """Texts that wait or are in work."""
        return self._batcher.waiting if self._batcher else 0

    async def start(self) -> None:
        """Load, and answer once: the first pass of a model is slow, and nobody should wait for it.

        Raises:
            Llama2VecError: The model or the index cannot be used.
        """
        loaded = await _in_daemon_thread(self._load)
        most = self.settings.max_batch_tokens or loaded.model.batch_tokens
        self._batcher = Batcher(
            loaded.model,
            max_batch=self.settings.max_batch,
            max_batch_tokens=most,
            max_wait_seconds=self.settings.max_wait_ms / 1000,
            max_waiting=self.settings.max_waiting,
            on_batch=self._on_batch,
        )
        await self._batcher.encode(["Is it ready?"], "passage")
        if loaded.searcher is not None:
            for mode in loaded.searcher.modes:
                await self._search(loaded, "Is it ready?", mode, 1)
        else:
            await self._batcher.encode(["Is it ready?"], "query")
        self.loaded = loaded

    async def stop(self) -> None:
        """Stop the threads."""
        self._searches.shutdown(wait=False, cancel_futures=True)
        if self._batcher:
            await self._batcher.close()

    async def embed(self, texts: Sequence[str], side: Side) -> Encoded:
        """Embed texts together with those of other requests.

        Raises:
            QueueFullError: Too many texts wait.
        """
        return await self._encode(texts, side)

    async def search(self, question: str, mode: Mode, depth: int) -> list[Hit]:
        """Return the best passages for a question.

        Raises:
            QueueFullError: Too many questions wait.
        """
        assert self.loaded is not None
        return await self._search(self.loaded, question, mode, depth)

    async def _search(self, loaded: Loaded, question: str, mode: Mode, depth: int) -> list[Hit]:
        searcher, questions = loaded.searcher, loaded.questions
        assert searcher is not None
        assert questions is not None
        if self._searching >= self.settings.max_waiting:
            raise QueueFullError(1)
        self._searching += 1
        single = Fusion().shares(searcher.modes) if mode == "hybrid" else [mode]
        lanes = [lane for one in single for lane in _LANES_OF_MODE[one]]

        def found() -> list[Hit]:
            with questions.use(made):
                return searcher.hits(question, mode, depth)

        try:
            # Both or none: where one is refused, the other's text leaves the queue, too.
            async with asyncio.TaskGroup() as group:
                tasks = {lane: group.create_task(self._encode([question], lane)) for lane in lanes}
            made = {lane: task.result() for lane, task in tasks.items()}
            return await asyncio.get_running_loop().run_in_executor(self._searches, found)
        except* QueueFullError as refused:
            raise refused.exceptions[0] from None
        finally:
            self._searching -= 1

    async def _encode(self, texts: Sequence[str], lane: Lane) -> Encoded:
        assert self._batcher is not None
        return await self._batcher.encode(texts, lane)


async def _in_daemon_thread(function: Callable[[], ResultT]) -> ResultT:
    """Run a function in a thread that does not keep the process alive: a model may load for minutes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResultT] = loop.create_future()

    def settle(result: ResultT | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:  # handed to the waiting task, whatever it is
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            logger.debug("loaded after the service was stopped")

    threading.Thread(target=run, daemon=True, name="load").start()
    return await done

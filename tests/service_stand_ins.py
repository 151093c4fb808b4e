"""A real server in a thread, with an encoder and an index made by hand; for tests of the service and its page."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import numpy as np
import numpy.typing as npt
from synced_folder import WIDTH, HashEncoder

from llama2vec.errors import EngineError, StoreError
from llama2vec.explain.explanation import Explanation, SharedWord, WordWeight
from llama2vec.records import Passage, Query
from llama2vec.retrieve.index.filters import PassageFields
from llama2vec.retrieve.search.fusion import Mode
from llama2vec.retrieve.search.hits import Hit
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.serve.app import create_app
from llama2vec.serve.batcher import Lengths
from llama2vec.serve.loaded import Loaded, PreparedQuery, ServedModel
from llama2vec.serve.server import address_of, listen, new_server
from llama2vec.serve.settings import ProxySettings, ServeSettings

PASSAGES = (
    Passage("camelids/1", "The llama is a domesticated camelid of the Andes. It carries loads.", "Llama"),
    Passage("camelids/2", "The alpaca is kept for its wool. <b>Soft</b> wool, and warm.", "Alpaca"),
    Passage("rivers/1", "The Amazon carries more water than any other river."),
    Passage("birds/1", "Many birds live there. " * 40 + "The condor is the largest of them.", "Birds"),
)


LONGEST = 200
"""Words that the encoder reads of a text."""


@dataclass
class StandInEncoder:
    """Vectors that depend on text and side alone, and a record of every call."""

    name: str = "stand-in"
    dimension: int = 8
    contract_hash: str = "c0ffee"
    batch_tokens: int = 1000
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    working: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def count_tokens(self, texts: Sequence[str], side: str) -> Lengths:
        lengths = [len(text.split()) for text in texts]
        return Lengths([min(length, LONGEST) + 2 for length in lengths], sum(length > LONGEST for length in lengths))

    def encode(self, texts: Sequence[str], side: str) -> npt.NDArray[np.float32]:
        self.calls.append((side, list(texts)))
        self.working.set()
        assert self.gate.wait(20)
        if "explode" in texts:
            raise RuntimeError("a secret: /etc/passwd")
        scale = np.float32(np.inf if "overflow" in texts else 1)
        return scale * np.stack([vector_of(text, side, self.dimension) for text in texts])

    def explain(self, query: str, passage: str) -> Explanation:
        shared = [SharedWord("llama", 0.5, 0.5, 0.25)]
        return Explanation(0.75, 0.25, [WordWeight(query, 1.0)], [WordWeight(passage, 1.0)], shared, [])


def vector_of(text: str, side: str, dimension: int = 8) -> npt.NDArray[np.float32]:
    draw = np.random.default_rng(zlib.crc32(f"{side}:{text}".encode()))
    vector = draw.standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class StandInSearcher:
    """Passages that have a longer word of the question; the score tells the mode, and that its vector arrived."""

    modes: tuple[Mode, ...] = ("dense", "bm25", "hybrid")

    def __init__(self, query: PreparedQuery) -> None:
        self._query = query
        self.store = StandInStore()
        self.fields = PassageFields(lambda: iter(PASSAGES))
        self.asked: list[tuple[str, Mode]] = []
        self.store_changed = False
        self.engine_fault: EngineError | None = None

    def check_unchanged(self) -> None:
        if self.store_changed:
            raise StoreError("/secret/store was rewritten")

    def on_present(self, read: Callable[[Any], Any]) -> Any:
        return read(self)

    def hits(
        self, question: str, mode: Mode, depth: int, *, where: str | None = None, group: bool = False
    ) -> list[Hit]:
        self.check_unchanged()
        if self.engine_fault and mode != "bm25":
            raise self.engine_fault
        self.asked.append((question, mode))
        if question == "explode":
            raise RuntimeError("a secret: /etc/passwd")
        score = 12.5
        if mode != "bm25":
            score = float(self._query.encode_queries([Query("question", question)])[0] @ vector_of(question, "query"))
        words = {word for word in question.casefold().split() if len(word) > 3}
        rows = range(len(PASSAGES)) if where is None else self.fields.rows(where).tolist()
        found = [row for row in rows if words & set(PASSAGES[row].full_text.casefold().split())]
        if mode == "dense":
            found.reverse()
        return [Hit(rank, score / rank, PASSAGES[row], row) for rank, row in enumerate(found[:depth], start=1)]


class StandInTable:
    """A query table whose vectors are the encoder's, and a record of every question."""

    contract_hash = "c0ffee"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_queries(self, queries: Sequence[str], /) -> npt.NDArray[np.float32]:
        self.asked += queries
        return np.stack([vector_of(text, "query") for text in queries])


class TwoSided(HashEncoder):
    """Encodes the passages of a sync, and serves queries as a model of that name."""

    name, batch_tokens, dimension = "hashes", 1000, WIDTH

    def count_tokens(self, texts: Sequence[str], side: str) -> Lengths:
        return Lengths([len(text.split()) for text in texts])

    def encode(self, texts: Sequence[str], side: str) -> npt.NDArray[np.float32]:
        return self._vectors(texts)


class StandInStore:
    """The passages as a store reads them."""

    has_vectors, contract_hash = True, "c0ffee"

    def __len__(self) -> int:
        return len(PASSAGES)

    def passage(self, row: int) -> Passage:
        return PASSAGES[row]

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        return [PASSAGES[row] for row in rows]


@dataclass
class Running:
    """A service that listens."""

    url: str
    encoder: StandInEncoder
    searcher: Any
    client: httpx.Client
    stop: Callable[[], None]


def bearer(token: str) -> dict[str, bytes]:
    """Return the header that carries a token; it may be any text."""
    return {"Authorization": f"Bearer {token}".encode()}


Start = Callable[..., Running]


@contextmanager
def services() -> Iterator[Start]:
    """Give a function that starts a service and waits until it is ready; all are stopped at the end."""
    running: list[Running] = []

    def run(
        *, token: str | None = None, encoder: StandInEncoder | None = None, with_search: bool = True,
        wait: bool = True, load: Callable[[], None] = lambda: None, port: int = 0,
        searcher: Any = None, query: PreparedQuery | None = None,
        hosts: Collection[str] | None = None, opened: Callable[[], Loaded] | None = None,
        proxy: ProxySettings | None = None, table: Any = None, **limits: Any,
    ) -> Running:  # fmt: skip
        encoder = encoder or StandInEncoder()
        query = query or PreparedQuery(encoder.contract_hash)
        searcher = searcher or StandInSearcher(query)
        model = cast(ServedModel, encoder)

        def loaded() -> Loaded:
            load()
            if opened:
                return opened()
            return Loaded(model, cast(Retriever, searcher), query, table) if with_search else Loaded(model)

        ready, settings = threading.Event(), ServeSettings.model_validate(limits)
        app = create_app(
            loaded, settings, token=token, hosts=hosts, root_path=proxy.root_path if proxy else "",
            with_search=with_search, on_ready=lambda _: ready.set(),
        )  # fmt: skip
        listening = listen("127.0.0.1", port)
        server = new_server(app, settings, proxy.trusted_proxy if proxy else ())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

        url = address_of(listening)
        client = httpx.Client(base_url=url, timeout=20, headers=bearer(token) if token else {})
        running.append(Running(url, encoder, searcher, client, stop))
        if wait:
            assert ready.wait(20)
            encoder.calls.clear()
            encoder.working.clear()
            if isinstance(searcher, StandInSearcher):
                searcher.asked.clear()
        return running[-1]

    try:
        yield run
    finally:
        for service in running:
            service.encoder.gate.set()
            service.client.close()
            service.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that another thread does."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.005)

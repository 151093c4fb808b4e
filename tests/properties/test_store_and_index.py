"""Whatever happens to a store and its index, a search gives the right hits or says what is wrong."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from storing import HashEncoder

from llama2vec.errors import Llama2VecError
from llama2vec.records import Passage, Query
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.search.retriever import Mode, Retriever
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.reuse import KnownVectors
from llama2vec.retrieve.store.writer import write_store

TEXTS = [[f"word{row * version} of {version}" for row in range(4 + version)] for version in (1, 2)]
VERSIONS = [[Passage(f"p{row}", text) for row, text in enumerate(texts)] for texts in TEXTS]


class Encoder(HashEncoder):
    """Vectors of a text's hash; interrupted before its nth call."""

    def __init__(self, calls: int = 1000) -> None:
        super().__init__()
        self.calls = calls

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().encode_passages(passages)

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return super().encode_passages([Passage(query.id, query.text) for query in queries])


class StoreAndIndex(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store, self.index = self.folder / "store", self.folder / "index"
        self.stored: int | None = None  # the version that a finished store holds
        self.indexed: int | None = None
        self.is_damaged = False
        self.opened: Retriever | None = None
        self.opened_index = False

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def encode(self, version: int, output: Path, encoder: object, **options: object) -> bool:
        try:
            write_store(
                lambda: VERSIONS[version],
                encoder,
                output,
                source={"fingerprint": str(version)},
                **options,  # type: ignore[arg-type]
            )
        except (KeyboardInterrupt, Llama2VecError):
            return False
        return True

    @rule(
        version=st.sampled_from([0, 1]), shard_size=st.sampled_from([2, 3]), overwrite=st.booleans(),
        calls=st.sampled_from([1, 1000, 2, 1000]),
    )  # fmt: skip
    def add_or_resume(self, version: int, shard_size: int, overwrite: bool, calls: int) -> None:
        if self.encode(version, self.store, Encoder(calls), shard_size=shard_size, overwrite=overwrite):
            self.is_damaged &= self.stored == version
            self.stored = version

    @precondition(lambda self: self.stored is not None)
    @rule(version=st.sampled_from([0, 1]))
    def reuse(self, version: int) -> None:
        other = self.folder / "other"
        try:
            known = KnownVectors(Encoder(), VectorStore.open(self.store))
        except Llama2VecError:
            assert self.is_damaged
            return
        if self.encode(version, other, known, overwrite=True):
            self.check_whole(VectorStore.open(other, verify=True), version)
        else:
            assert self.is_damaged

    @rule(overwrite=st.booleans(), bm25=st.sampled_from([None, "en"]))
    def make_index(self, overwrite: bool, bm25: str | None) -> None:
        try:
            build_index(self.store, self.index, bm25=bm25, overwrite=overwrite)
        except Llama2VecError:
            return
        self.indexed = self.stored

    @precondition(lambda self: self.store.exists())
    @rule(data=st.data())
    def flip_a_bit(self, data: st.DataObject) -> None:
        folders = [folder for folder in (self.store, self.index) if folder.is_dir()]
        files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
        files = [path for path in files if path.suffix != ".json"] * 3 + files
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            file.write_bytes(content)
            self.is_damaged = True

    @precondition(lambda self: self.is_damaged)
    @rule()
    def begin_anew(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.rmtree(self.index, ignore_errors=True)
        self.stored = self.indexed = self.opened = None
        self.is_damaged = False

    @rule(use_index=st.booleans())
    def keep_open(self, use_index: bool) -> None:
        opened = self.open(self.index, self.indexed) if use_index else self.open(self.store, self.stored)
        self.opened, self.opened_index = opened and opened[0], use_index

    def open(self, path: Path, version: int | None) -> tuple[Retriever, int] | None:
        try:
            opened = Retriever.open(path, Encoder())
        except Llama2VecError:
            return None
        assert version is not None
        return opened, version

    @invariant()
    def no_search_is_wrong(self) -> None:
        if hasattr(self, "folder"):
            # A retriever follows what it opened: it sees the present version, or an error.
            now = self.indexed if self.opened_index else self.stored
            opened = (self.opened, now) if self.opened is not None and now is not None else None
            kept = opened, self.open(self.index, self.indexed), self.open(self.store, self.stored)
            for retriever, version in filter(None, kept):
                for mode in retriever.modes:
                    self.search(retriever, VERSIONS[version], mode)

    def search(self, retriever: Retriever, passages: list[Passage], mode: Mode) -> None:
        vectors = Encoder().encode_passages(passages)
        for row, asked in enumerate(passages):
            try:
                hits = retriever.hits(asked.text, mode, depth=3)
            except Llama2VecError:
                continue
            assert hits[0].passage == asked
            assert all(hit.passage in passages for hit in hits)
            if mode == "dense":
                scores = sorted((vectors @ vectors[row]).tolist())[::-1]
                np.testing.assert_allclose([hit.score for hit in hits], scores[:3], rtol=1e-5)

    @invariant()
    def a_store_without_damage_is_whole(self) -> None:
        if getattr(self, "stored", None) is not None and not self.is_damaged:
            try:
                store = VectorStore.open(self.store, verify=True)
            except Llama2VecError as error:
                raise AssertionError(f"lost: {error}") from error
            self.check_whole(store, self.stored)

    def check_whole(self, store: VectorStore, version: int | None) -> None:
        assert version is not None
        assert store.passages(range(len(store))) == VERSIONS[version]
        np.testing.assert_array_equal(store.vectors(range(len(store))), Encoder().encode_passages(VERSIONS[version]))


class TestStoreAndIndex(StoreAndIndex.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(deadline=None, max_examples=60, stateful_step_count=15, suppress_health_check=list(HealthCheck))

    def runTest(self) -> None:
        with mock.patch("os.fsync"):
            super().runTest()

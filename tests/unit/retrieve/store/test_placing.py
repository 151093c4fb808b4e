"""Shards in turns: as many at a time as an encoder elsewhere takes, and none left running after an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_stores import TableEncoder, clustered

from llama2vec.errors import ModelError
from llama2vec.records import Passage
from llama2vec.retrieve.store.placing import shard_turns
from llama2vec.retrieve.store.reader import Vectors, VectorStore
from llama2vec.retrieve.store.reuse import KnownVectors
from llama2vec.retrieve.store.writer import write_store

PASSAGES = [Passage(str(number), f"Text number {number}.") for number in range(23)]


class Elsewhere:
    """Computes what another encoder would, several shards at a time; the last shards come back first."""

    shards_at_once = 3

    def __init__(self, inner: TableEncoder, fails_at: str = "") -> None:
        self._inner, self._fails_at = inner, fails_at
        self.dimension, self.contract_hash = inner.dimension, inner.contract_hash
        self.running, self.most, self.encoded = 0, 0, list[str]()
        self._guard, self._stopped = threading.Lock(), threading.Event()

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        with self._guard:
            self.running += 1
            self.most = max(self.most, self.running)
            self.encoded += [passage.id for passage in passages]
        try:
            if self._fails_at in [passage.id for passage in passages]:
                raise ModelError("a vector is not finite")
            if self._fails_at:
                assert self._stopped.wait(20), "the others were not stopped"
                raise ModelError("stopped")
            time.sleep(0.02 * (3 - self.running))
            return self._inner.encode_passages(passages)
        finally:
            with self._guard:
                self.running -= 1

    def stop(self) -> None:
        self._stopped.set()


@pytest.fixture
def table() -> TableEncoder:
    return TableEncoder(clustered(len(PASSAGES), 8))


def contents(store: VectorStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.path.iterdir()}


def write(encoder: TableEncoder | Elsewhere | KnownVectors, folder: Path) -> VectorStore:
    return write_store(lambda: PASSAGES, encoder, folder, source={"corpus": "made up"}, shard_size=4)


def test_shards_made_at_the_same_time_give_the_same_store(table: TableEncoder, tmp_path: Path) -> None:
    elsewhere = Elsewhere(table)
    assert contents(write(elsewhere, tmp_path / "many")) == contents(write(table, tmp_path / "one"))
    assert 1 < elsewhere.most <= elsewhere.shards_at_once
    assert sorted(elsewhere.encoded) == sorted(passage.id for passage in PASSAGES)


def test_known_vectors_leave_the_rest_to_several_shards_at_a_time(table: TableEncoder, tmp_path: Path) -> None:
    known = write_store(lambda: PASSAGES[:6], table, tmp_path / "known", source={"corpus": "first"})
    elsewhere = Elsewhere(table)
    reusing = KnownVectors(elsewhere, known)
    assert contents(write(reusing, tmp_path / "many")) == contents(write(table, tmp_path / "one"))
    assert (reusing.reused, len(elsewhere.encoded)) == (6, len(PASSAGES) - 6)
    assert elsewhere.most > 1


def test_an_error_stops_the_others_and_frees_every_claim(table: TableEncoder, tmp_path: Path) -> None:
    failing = Elsewhere(table, fails_at="5")
    with pytest.raises(ModelError):
        write(failing, tmp_path / "store")
    assert failing.running == 0
    assert not list((tmp_path / "store").glob("*.claim")) if (tmp_path / "store").exists() else True
    assert contents(write(table, tmp_path / "store")) == contents(write(table, tmp_path / "one"))


def test_work_is_done_at_once_for_an_encoder_of_this_process(table: TableEncoder) -> None:
    here = threading.current_thread()
    threads = list[threading.Thread]()
    for encoder in (None, table):
        with shard_turns(encoder) as take:
            take(lambda: threads.append(threading.current_thread()))
            assert threads[-1] is here
    assert len(threads) == 2

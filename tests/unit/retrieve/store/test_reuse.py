"""Vectors that an older store has already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llama2vec.errors import StoreError
from llama2vec.records import Passage
from llama2vec.retrieve.store import reuse
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.reuse import KnownVectors
from llama2vec.retrieve.store.writer import write_store

WIDTH = 8
OLD = [Passage(f"p{n}", f"Body {n} äöü", f"Title {n}" if n % 2 else "") for n in range(10)]


class HashEncoder:
    """Vectors that depend on the text, and on how often this encoder was made: so it shows whose they are."""

    dimension = WIDTH

    def __init__(self, contract_hash: str = "c0ffee", salt: str = "") -> None:
        self.contract_hash, self.salt = contract_hash, salt
        self.encoded: list[str] = []

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.encoded += [passage.id for passage in passages]
        digests = [hashlib.sha256((self.salt + one.full_text).encode()).digest()[:WIDTH] for one in passages]
        vectors = np.array([np.frombuffer(digest, np.uint8) for digest in digests], dtype=np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def old(tmp_path: Path) -> VectorStore:
    return write(OLD, HashEncoder(), tmp_path / "old")


def write(passages: Sequence[Passage], encoder: HashEncoder | KnownVectors, folder: Path) -> VectorStore:
    return write_store(lambda: iter(passages), encoder, folder, source={"corpus": "x"}, shard_size=4)


class Counting(HashEncoder):
    """Reads to the end only what has no title, and notes what it was asked about."""

    def count_cut(self, passages: Sequence[Passage]) -> int:
        self.asked = [passage.id for passage in passages]
        return sum(bool(passage.title) for passage in passages)


class ReadsAll(HashEncoder):
    """Reads every text to its end."""

    def count_cut(self, passages: Sequence[Passage]) -> int:
        return 0


def test_texts_of_a_store_that_cuts_none_are_not_counted_again(old: VectorStore, tmp_path: Path) -> None:
    model, new = Counting(), Passage("new", "Something", "else")
    # A store that says nothing, such as one of an earlier version, may cut any.
    assert (old.cuts_nothing, KnownVectors(model, old).count_cut(OLD[:2]), model.asked) == (False, 1, ["p0", "p1"])
    old = write(OLD, ReadsAll(), tmp_path / "whole")
    known = KnownVectors(model, old)
    assert (known.count_cut([*OLD, new]), model.asked) == (1, ["new"])
    model.asked = []
    assert (known.count_cut(OLD), model.asked) == (0, [])
    # The rows found for the count are those of the same batch alone.
    np.testing.assert_array_equal(known.encode_passages(OLD[:3]), old.vectors([0, 1, 2]))
    counted = write(OLD, model, tmp_path / "counted")
    assert counted.cut == 5
    assert (KnownVectors(model, counted).count_cut(OLD[:2]), model.asked) == (1, ["p0", "p1"])


def test_only_new_and_changed_texts_are_encoded(old: VectorStore, tmp_path: Path) -> None:
    changed = Passage("p3", OLD[3].text + "!", OLD[3].title)
    untitled = Passage("p5", OLD[5].text)
    # Moved, under another id, changed, without its title, gone (p7), new.
    passages = [
        OLD[8],
        Passage("q", OLD[1].text, OLD[1].title),
        changed,
        untitled,
        OLD[0],
        Passage("new", "Something else"),
    ]
    model = HashEncoder(salt="later")
    known = KnownVectors(model, old)
    store = write(passages, known, tmp_path / "new")
    assert model.encoded == ["p3", "p5", "new"]
    assert known.reused == 3
    assert list(store.ids) == [passage.id for passage in passages]
    rows = [0, 1, 4]
    np.testing.assert_array_equal(store.vectors(rows), old.vectors([8, 1, 0]))
    np.testing.assert_array_equal(
        store.vectors([2, 3, 5]), HashEncoder(salt="later").encode_passages([changed, untitled, passages[-1]])
    )


def test_two_texts_of_one_hash_are_told_apart(
    old: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "_keys", lambda passages: np.zeros(len(passages), dtype=np.uint64))
    model = HashEncoder(salt="later")
    known = KnownVectors(model, old)
    known.encode_passages([OLD[0], OLD[1], Passage("new", "x")])
    # The first text of a hash is the one that is known; the others are read again, never mistaken for it.
    assert (known.reused, model.encoded) == (1, ["p1", "new"])


def test_the_same_store_again_needs_no_model(old: VectorStore, tmp_path: Path) -> None:
    model = HashEncoder(salt="later")
    store = write(OLD, KnownVectors(model, old), tmp_path / "new")
    assert model.encoded == []
    np.testing.assert_array_equal(store.vectors(range(10)), old.vectors(range(10)))


def test_vectors_of_another_kind_are_refused(old: VectorStore, tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match="old was encoded under contract c0ffee and this model has beef; leave out --reuse"
    ):
        KnownVectors(HashEncoder("beef"), old)
    half = write_store(
        lambda: iter(OLD), HashEncoder(), tmp_path / "half", source={"corpus": "x"}, shard_size=4, dtype="float16"
    )
    with pytest.raises(StoreError, match="half has float16 vectors and the new store float32; add --half"):
        KnownVectors(HashEncoder(), half)
    small = write_store(
        lambda: iter(OLD), HashEncoder(), tmp_path / "small", source={"corpus": "x"}, shard_size=4, dtype="int8"
    )
    with pytest.raises(StoreError, match="small has int8 vectors and the new store float16; add --int8"):
        KnownVectors(HashEncoder(), small, dtype="float16")
    KnownVectors(HashEncoder(), half, dtype="int8")
    exact = KnownVectors(HashEncoder(), half, dtype="float16").encode_passages(OLD)
    np.testing.assert_array_equal(exact, half.vectors(range(10)))


def test_a_store_that_is_replaced_is_asked_where_it_is_whole_and_fits(old: VectorStore, tmp_path: Path) -> None:
    model = HashEncoder(salt="later")
    assert isinstance(reuse.reusing(model, old.path), KnownVectors)
    other = HashEncoder("beef")
    assert reuse.reusing(other, old.path) is other
    assert reuse.reusing(model, tmp_path / "nothing") is model
    file = old.path / "shard-00001.vectors.npy"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert reuse.reusing(model, old.path) is model

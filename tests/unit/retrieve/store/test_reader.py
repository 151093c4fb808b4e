"""Reading a vector store: every vector and text as written, and nothing that was changed since."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_stores import TableEncoder, clustered, store_of
from storing import WIDTH, HashEncoder, corpus, files, write

from llama2vec.errors import CorruptShardError, StoreError
from llama2vec.files import file_sha256
from llama2vec.records import Passage
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.store.reader import VectorStore, as_stored
from llama2vec.retrieve.store.writer import write_store


def test_a_store_gives_back_every_passage_and_vector(tmp_path: Path) -> None:
    store = write(tmp_path / "s")
    expected = list(corpus()())
    vectors = HashEncoder().encode_passages(expected)
    assert (len(store), store.dimension, store.contract_hash) == (10, WIDTH, "c0ffee")
    assert store.source == {"corpus": "ten", "place": "/ten"}
    assert [store.passage(row) for row in range(10)] == expected
    assert store.passages([9, 0, 5, 0]) == [expected[9], expected[0], expected[5], expected[0]]
    assert list(store.ids) == [passage.id for passage in expected]
    assert (store.ids[-1], store.ids[3:5]) == ("p9", ["p3", "p4"])
    np.testing.assert_array_equal(store.vectors([9, 0, 5, 0]), vectors[[9, 0, 5, 0]])
    assert [(first, part.shape) for first, part in store.shards()] == [(0, (4, 8)), (4, (4, 8)), (8, (2, 8))]
    assert all(isinstance(part, np.memmap) for _, part in store.shards())
    assert store.passages([]) == []
    assert store.vectors([]).shape == (0, WIDTH)
    with pytest.raises(IndexError, match=r"0\.\.9"):
        store.passage(10)


def test_half_precision_is_close_and_half_as_large(tmp_path: Path) -> None:
    full, half = write(tmp_path / "full"), write(tmp_path / "half", dtype="float16")
    np.testing.assert_allclose(half.vectors(range(10)), full.vectors(range(10)), atol=1e-3)
    assert half.vectors([0]).dtype == np.float32
    assert next(half.shards())[1].nbytes * 2 == next(full.shards())[1].nbytes


def test_bytes_point_in_the_directions_of_the_vectors(tmp_path: Path) -> None:
    table = clustered(300, 64)
    full = store_of(table, tmp_path / "full", shard_size=100)
    small = write_store(
        lambda: full.passages(range(300)),
        TableEncoder(table),
        tmp_path / "small",
        source={},
        shard_size=100,
        dtype="int8",
    )
    files = [sum(one.stat().st_size for one in store.path.glob("*.npy")) for store in (full, small)]
    assert files[0] - files[1] == 300 * 64 * 3
    found = small.vectors(range(300))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found * table).sum(axis=1).min() > 0.9999
    np.testing.assert_array_equal(found, np.concatenate([part for _, part in small.shards()]))
    # Bytes made of what bytes give are the same bytes.
    np.testing.assert_array_equal(as_stored(found, "int8"), as_stored(table, "int8"))
    nearest = [ExactIndex(store).search(table[::10], 10)[1] for store in (full, small)]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*nearest, strict=True)]) > 0.97
    # A file of another format than the store says is damaged.
    with pytest.raises(CorruptShardError, match="cannot be read"):
        _ = VectorStore(small.path, _claiming(small.path, "float32")).vectors([0])


def _claiming(path: Path, dtype: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / "store.json").read_text())
    manifest["settings"]["dtype"] = dtype
    return manifest


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    odd = Passage("odd", "a \ud800 b")
    encoder = HashEncoder()
    encoder.encode_passages = lambda passages: np.ones((1, WIDTH), np.float32)  # type: ignore[method-assign]
    assert write_store(lambda: iter([odd]), encoder, tmp_path, source={}).passage(0) == odd


@pytest.mark.parametrize("part", ["vectors.npy", "passages.jsonl", "offsets.npy"])
def test_a_flipped_bit_is_never_read_and_is_repaired_as_the_message_says(tmp_path: Path, part: str) -> None:
    write(tmp_path)
    before = files(tmp_path)
    file = tmp_path / f"shard-00002.{part}"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    store = VectorStore.open(tmp_path)
    with pytest.raises(CorruptShardError, match=r"has another checksum .*; delete .*shard-00002\.\* and run the same"):
        VectorStore.open(tmp_path, verify=True)
    with pytest.raises(CorruptShardError, match=rf"shard-00002\.{part} has another checksum"):
        _ = list(store.shards()), store.passages(range(10))
    assert store.passage(7).id == "p7"
    for damaged in tmp_path.glob("shard-00002.*"):
        damaged.unlink()
    with pytest.raises(CorruptShardError, match=r"is missing; delete .*shard-00002\.\*"):
        VectorStore.open(tmp_path)
    with pytest.raises(CorruptShardError, match="is missing"):
        store.passage(9)
    write(tmp_path)
    assert files(tmp_path) == before


def test_a_store_that_is_replaced_under_a_reader_is_noticed(tmp_path: Path) -> None:
    store = write(tmp_path / "s")
    assert store.passage(1).id == "p1"
    write(tmp_path / "s", encoder=HashEncoder("beef"), count=9, shard_size=4, source={"corpus": "nine"}, overwrite=True)
    assert VectorStore.open(tmp_path / "s").passage(8).id == "p8"
    with pytest.raises(CorruptShardError, match=r"the store was replaced after it was opened|bytes instead of"):
        store.passage(9)


def test_a_file_is_hashed_once_for_each_of_its_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    hashed: list[str] = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr("llama2vec.retrieve.store.reader.file_sha256", count)
    names = sorted(path.name for path in tmp_path.glob("shard-*.*.*"))
    for name in names:
        os.utime(tmp_path / name, (1, 1))
    for _ in range(2):
        VectorStore.open(tmp_path, verify=True).passages(range(10))
    assert sorted(hashed) == names
    os.utime(tmp_path / names[0], (2, 2))
    VectorStore.open(tmp_path, verify=True)
    assert sorted(hashed) == sorted([*names, names[0]])


def test_a_bit_flipped_within_one_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "shard-00000.passages.jsonl"
    content = bytearray(file.read_bytes())
    now = time.time_ns()
    os.utime(file, ns=(now, now))
    assert VectorStore.open(tmp_path).passage(0).id == "p0"
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(now, now))
    with pytest.raises(CorruptShardError, match="has another checksum"):
        VectorStore.open(tmp_path).passage(0)


@pytest.mark.parametrize("content", [{}, {"settings": {}, "shards": 5}, {"settings": [], "shards": [{}]}])
def test_a_manifest_that_lacks_keys_is_one_line(tmp_path: Path, content: dict[str, object]) -> None:
    head = {"format": "llama2vec-store", "version": 1}
    (tmp_path / "store.json").write_text(json.dumps(head | content))
    with pytest.raises(StoreError, match=r"store\.json lacks what a store must say"):
        VectorStore.open(tmp_path)


def test_a_path_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no vector store at .*; make one with `llama2vec encode`"):
        VectorStore.open(tmp_path / "none")
    (tmp_path / "store.json").write_text('{"format": "llama2vec-store", "version": 99}')
    with pytest.raises(StoreError, match="format version 99"):
        VectorStore.open(tmp_path)

"""The vector store: what it holds, what it refuses, what it finds broken."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llama2vec.errors import CorruptShardError, EmptyCorpusError, OutputExistsError, StoreError
from llama2vec.records import Passage
from llama2vec.retrieve import claims
from llama2vec.retrieve.store import VectorStore, write_store

WIDTH = 8


class HashEncoder:
    """Vectors that depend on nothing but the text."""

    dimension = WIDTH

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash
        self.encoded: list[str] = []

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.encoded += [passage.id for passage in passages]
        rows = [np.frombuffer(hashlib.sha256(p.full_text.encode()).digest()[:WIDTH], np.uint8) for p in passages]
        vectors = np.array(rows, dtype=np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def corpus(count: int = 10) -> Callable[[], Iterator[Passage]]:
    return lambda: (Passage(f"p{n}", f"Body {n} äöü 世界\u2028.", f"Title {n}" if n % 2 else "") for n in range(count))


def write(folder: Path, count: int = 10, **options: object) -> VectorStore:
    settings: dict[str, object] = {"source": {"corpus": "ten"}, "shard_size": 4, "total": count}
    return write_store(corpus(count), options.pop("encoder", HashEncoder()), folder, **(settings | options))  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_gives_back_every_passage_and_vector(tmp_path: Path) -> None:
    store = write(tmp_path / "s")
    expected = list(corpus()())
    vectors = HashEncoder().encode_passages(expected)
    assert (len(store), store.dimension, store.contract_hash, store.source) == (10, WIDTH, "c0ffee", {"corpus": "ten"})
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


def test_nothing_but_the_documented_files_is_left(tmp_path: Path) -> None:
    write(tmp_path, 8)
    suffixes = ("json", "vectors.npy", "passages.jsonl", "offsets.npy")
    assert sorted(files(tmp_path)) == sorted(["store.json", *(f"shard-0000{k}.{s}" for k in (0, 1) for s in suffixes)])
    assert VectorStore.open(tmp_path, verify=True).dtype == "float32"


def test_half_precision_is_close_and_half_as_large(tmp_path: Path) -> None:
    full, half = write(tmp_path / "full"), write(tmp_path / "half", dtype="float16")
    np.testing.assert_allclose(half.vectors(range(10)), full.vectors(range(10)), atol=1e-3)
    assert half.vectors([0]).dtype == np.float32
    assert next(half.shards())[1].nbytes * 2 == next(full.shards())[1].nbytes


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    odd = Passage("odd", "a \ud800 b")
    encoder = HashEncoder()
    encoder.encode_passages = lambda passages: np.ones((1, WIDTH), np.float32)  # type: ignore[method-assign]
    assert write_store(lambda: iter([odd]), encoder, tmp_path, source={}).passage(0) == odd


def test_a_finished_store_is_not_encoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    before, encoder = files(tmp_path), HashEncoder()
    with caplog.at_level(logging.INFO):
        write(tmp_path, encoder=encoder)
    assert encoder.encoded == []
    assert files(tmp_path) == before
    assert "nothing to do" in caplog.text


def test_other_settings_need_overwrite_and_replace_the_store_with_it(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(OutputExistsError, match=r"contract_hash is 'c0ffee' there and 'beef' now.*--overwrite"):
        write(tmp_path, encoder=HashEncoder("beef"))
    with pytest.raises(OutputExistsError, match=r"source\.corpus is 'ten' there and 'nine' now"):
        write(tmp_path, source={"corpus": "nine"})
    assert write(tmp_path, encoder=HashEncoder("beef"), shard_size=5, overwrite=True).contract_hash == "beef"
    assert len(list(tmp_path.glob("shard-*.json"))) == 2


def test_overwrite_encodes_a_finished_store_anew(tmp_path: Path) -> None:
    write(tmp_path)
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder, overwrite=True)
    assert len(encoder.encoded) == 10


def test_an_unfinished_store_says_so_and_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="max_shards"):
        write(tmp_path, max_shards=2)
    with pytest.raises(StoreError, match="not finished: 2 of 3 shards; run the same encode command again"):
        VectorStore.open(tmp_path)
    with pytest.raises(StoreError, match=r"begun with other settings: shard_size is 4 there and 5 now"):
        write(tmp_path, shard_size=5)
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder, max_shards=1)
    assert encoder.encoded == ["p8", "p9"]


def test_a_corpus_that_changed_under_its_fingerprint_is_found(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="max_shards"):
        write(tmp_path, max_shards=2)
    with pytest.raises(StoreError, match="shard 0 holds other passages"):
        write_store(
            lambda: iter([Passage("new", "text")]), HashEncoder(), tmp_path, source={"corpus": "ten"}, shard_size=4
        )
    with pytest.raises(StoreError, match="shard 1 holds other passages"):
        write(tmp_path, 6)


def test_a_clearing_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    write(tmp_path)
    plan = {"format": "llama2vec-store", "version": 1, "clearing": True}
    (tmp_path / "writing.json").write_text(json.dumps(plan))
    (tmp_path / "store.json").unlink()
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder)
    assert len(encoder.encoded) == 10


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_store_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    for name, content in (("thesis.txt", "years of work"), ("store.json", "{}"), ("writing.json", "not json")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(OutputExistsError, match="is not a vector store"):
            write(folder, overwrite=overwrite)
        assert files(folder) == {name: content.encode()}
    with pytest.raises(OutputExistsError, match="is not a vector store"):
        write(tmp_path / "thesis.txt" / "thesis.txt", overwrite=overwrite)


def test_an_empty_corpus_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(EmptyCorpusError, match="no passages"):
        write(tmp_path / "s", 0)
    assert not (tmp_path / "s").exists()


def test_a_truncated_shard_is_found_at_open_and_repaired_by_encoding(tmp_path: Path) -> None:
    write(tmp_path)
    before = files(tmp_path)
    file = tmp_path / "shard-00001.vectors.npy"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CorruptShardError, match=r"shard-00001\.vectors\.npy has 251 bytes instead of 256; delete .*"):
        VectorStore.open(tmp_path)
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder)
    assert encoder.encoded == ["p4", "p5", "p6", "p7"]
    assert files(tmp_path) == before


def test_a_flipped_byte_is_found_by_verify_and_repaired_as_the_message_says(tmp_path: Path) -> None:
    store = write(tmp_path)
    before = files(tmp_path)
    file = tmp_path / "shard-00002.passages.jsonl"
    file.write_bytes(file.read_bytes().replace(b"Body", b"Bodi"))
    VectorStore.open(tmp_path)
    with pytest.raises(CorruptShardError, match=r"shard-00002\.passages\.jsonl has another checksum .*; delete "):
        VectorStore.open(tmp_path, verify=True)
    for damaged in tmp_path.glob("shard-00002.*"):
        damaged.unlink()
    with pytest.raises(CorruptShardError, match=r"is missing; delete .*shard-00002\.\*"):
        VectorStore.open(tmp_path)
    with pytest.raises(CorruptShardError, match="cannot be read"):
        store.passage(9)
    write(tmp_path)
    assert files(tmp_path) == before


def test_a_full_disk_is_one_line_and_keeps_the_shards_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    write(whole)
    real, calls = os.fsync, 0

    def full_after_a_while(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full_after_a_while)
    with pytest.raises(
        StoreError, match=r"^disk full while writing .*; free space .* same command again: \d shards? ar"
    ):
        write(tmp_path / "s")
    assert not [name for name in files(tmp_path / "s") if ".tmp-" in name or ".claim" in name]
    assert len(list((tmp_path / "s").glob("shard-*.json"))) == 1
    monkeypatch.undo()
    write(tmp_path / "s")
    assert files(tmp_path / "s") == files(whole)


def test_an_encoder_that_fails_is_told_and_lets_go_of_its_claim(tmp_path: Path) -> None:
    encoder = HashEncoder()
    encoder.encode_passages = lambda passages: np.full((len(passages), WIDTH), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="vector of passage 'p0' is not finite"):
        write(tmp_path, encoder=encoder)
    encoder.encode_passages = lambda passages: np.ones((1, 3), np.float32)  # type: ignore[method-assign]
    with pytest.raises(StoreError, match=r"shape \(1, 3\) for 4 passages of width 8"):
        write(tmp_path, encoder=encoder)
    assert list(files(tmp_path)) == ["writing.json"]


def _leave_claim(path: Path, *, host: str, pid: int, age_seconds: float) -> None:
    path.write_text(json.dumps({"host": host, "pid": pid, "time": 0, "token": "other"}))
    then = time.time() - age_seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize(("host", "age"), [("elsewhere", 61.0), (claims.host_name(), 0.0)])
def test_a_dead_claim_is_taken_over(tmp_path: Path, host: str, age: float) -> None:
    with pytest.raises(StoreError, match="max_shards"):
        write(tmp_path, max_shards=1)
    for name in ("shard-00001.claim", "plan.claim"):
        _leave_claim(tmp_path / name, host=host, pid=2**22 + 1, age_seconds=age)
    assert len(write(tmp_path)) == 10
    assert not list(tmp_path.glob("*.claim*"))


def test_a_living_claim_is_waited_for_until_it_dies(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="max_shards"):
        write(tmp_path, max_shards=1)
    _leave_claim(tmp_path / "shard-00001.claim", host="elsewhere", pid=1, age_seconds=0)
    encoder, began = HashEncoder(), time.monotonic()
    write(tmp_path, encoder=encoder, claim_timeout_seconds=0.5)
    assert time.monotonic() - began > 0.3
    assert encoder.encoded == ["p8", "p9", "p4", "p5", "p6", "p7"]


def test_overwrite_does_not_delete_under_a_living_writer(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="max_shards"):
        write(tmp_path, max_shards=1)
    _leave_claim(tmp_path / "shard-00001.claim", host="elsewhere", pid=1, age_seconds=0)
    with pytest.raises(StoreError, match="being written by another process"):
        write(tmp_path, shard_size=3, overwrite=True)
    assert (tmp_path / "shard-00000.json").exists()


def test_a_writer_whose_claim_was_taken_over_leaves_the_shard_to_the_other(tmp_path: Path) -> None:
    class Robbed(HashEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if passages[0].id == "p4" and "p4" not in self.encoded:
                _leave_claim(tmp_path / "shard-00001.claim", host="elsewhere", pid=1, age_seconds=0)
            return super().encode_passages(passages)

    encoder = Robbed()
    write(tmp_path, encoder=encoder, claim_timeout_seconds=0.4)
    assert encoder.encoded.count("p4") == 2
    assert encoder.encoded.count("p8") == 1


def test_the_claim_beats_while_a_shard_is_encoded(tmp_path: Path) -> None:
    ages: list[float] = []

    class Slow(HashEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            time.sleep(0.5)
            ages.append(time.time() - (tmp_path / "shard-00000.claim").stat().st_mtime)
            return super().encode_passages(passages)

    write(tmp_path, 4, encoder=Slow(), claim_timeout_seconds=0.8)
    assert ages[0] < 0.4


def test_a_path_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no vector store at .*; make one with `llama2vec encode`"):
        VectorStore.open(tmp_path / "none")
    (tmp_path / "store.json").write_text('{"format": "llama2vec-store", "version": 99}')
    with pytest.raises(StoreError, match="format version 99"):
        VectorStore.open(tmp_path)

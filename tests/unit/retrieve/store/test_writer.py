"""Writing a vector store: what it refuses, resumes, repairs and shares."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from storing import WIDTH, HashEncoder, files, write

from llama2vec.errors import ConfigError, CorruptShardError, DataError, EmptyCorpusError, OutputExistsError, StoreError
from llama2vec.locks import Lock
from llama2vec.records import Passage, Place
from llama2vec.retrieve.store import reuse
from llama2vec.retrieve.store.reader import Vectors, VectorStore
from llama2vec.retrieve.store.reuse import KnownVectors
from llama2vec.retrieve.store.writer import passages_sha256, warn_of_cut_passages, write_store


def test_nothing_but_the_documented_files_is_left(tmp_path: Path) -> None:
    write(tmp_path, 8)
    suffixes = ("json", "vectors.npy", "passages.jsonl", "offsets.npy")
    assert sorted(files(tmp_path)) == sorted(["store.json", *(f"shard-0000{k}.{s}" for k in (0, 1) for s in suffixes)])
    assert VectorStore.open(tmp_path, verify=True).dtype == "float32"


def test_a_finished_store_is_not_encoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    before, encoder = files(tmp_path), HashEncoder()
    with caplog.at_level(logging.INFO):
        write(tmp_path, encoder=encoder)
    assert encoder.encoded == []
    assert files(tmp_path) == before
    assert "nothing to do" in caplog.text


def test_what_a_writer_left_that_was_killed_right_after_finishing_goes_with_the_next_call(tmp_path: Path) -> None:
    write(tmp_path / "s")
    before = files(tmp_path / "s")
    for name in ("writing.json", "shard-00001.claim", "shard-00002.partial.npz", f"store.json.tmp-{'a' * 32}"):
        (tmp_path / "s" / name).write_text("left", encoding="utf-8")
    (tmp_path / ".lock-s").touch()
    write(tmp_path / "s")
    assert files(tmp_path / "s") == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_other_settings_need_overwrite_and_replace_the_store_with_it(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(OutputExistsError, match=r"contract_hash: 'c0ffee' there, 'beef' now.*--reuse.*--overwrite"):
        write(tmp_path, encoder=HashEncoder("beef"))
    with pytest.raises(OutputExistsError, match=r"source\.corpus: 'ten' there, 'nine' now"):
        write(tmp_path, source={"corpus": "nine"})
    assert write(tmp_path, encoder=HashEncoder("beef"), shard_size=5, overwrite=True).contract_hash == "beef"
    assert len(list(tmp_path.glob("shard-*.json"))) == 2


def test_overwrite_encodes_a_finished_store_anew(tmp_path: Path) -> None:
    write(tmp_path)
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder, overwrite=True)
    assert len(encoder.encoded) == 10


class Stops(HashEncoder):
    """An encoder that is interrupted at its nth shard."""

    def __init__(self, shards: int) -> None:
        super().__init__()
        self.left = shards

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode_passages(passages)


def begin(folder: Path, shards: int, **options: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(folder, encoder=Stops(shards), **options)


def test_an_unfinished_store_says_so_and_is_resumed(tmp_path: Path) -> None:
    begin(tmp_path, 2)
    with pytest.raises(StoreError, match="not finished: 2 of 3 shards; run the same encode command again"):
        VectorStore.open(tmp_path)
    with pytest.raises(OutputExistsError, match=r"holds an unfinished vector store .*shard_size: 4 there, 5 now"):
        write(tmp_path, shard_size=5)
    encoder = HashEncoder()
    # A path that is spelled in another way names the same corpus.
    write(tmp_path, encoder=encoder, source={"corpus": "./ten/", "place": "/ten"})
    assert encoder.encoded == ["p8", "p9"]


def test_a_shard_that_was_damaged_before_the_store_was_finished_is_encoded_again(tmp_path: Path) -> None:
    begin(tmp_path, 2)
    file = tmp_path / "shard-00000.vectors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder)
    assert encoder.encoded == ["p0", "p1", "p2", "p3", "p8", "p9"]
    VectorStore.open(tmp_path, verify=True)


def test_a_store_that_came_nowhere_does_not_block_other_settings(tmp_path: Path) -> None:
    begin(tmp_path / "s", 0)
    assert not (tmp_path / "s").exists()
    plan = {"format": "llama2vec-store", "version": 1, "settings": {"shard_size": 4}, "expected_passages": 10}
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "writing.json").write_text(json.dumps(plan))
    assert len(write(tmp_path / "s", shard_size=5)) == 10


def test_the_name_by_which_the_encoder_was_loaded_does_not_decide(tmp_path: Path) -> None:
    begin(tmp_path, 1, source={"corpus": "ten", "model": "runs/adapted", "prompts": None})
    encoder = HashEncoder()
    store = write(tmp_path, encoder=encoder, source={"corpus": "ten", "model": {"path": "../adapted"}})
    assert store.source["model"] == {"path": "../adapted"}
    assert encoder.encoded == ["p4", "p5", "p6", "p7", "p8", "p9"]


def test_a_corpus_that_changed_under_its_fingerprint_is_found(tmp_path: Path) -> None:
    begin(tmp_path, 2)
    with pytest.raises(StoreError, match="shard 0 holds other passages"):
        write_store(
            lambda: iter([Passage("new", "text")]), HashEncoder(), tmp_path, source={"corpus": "ten"}, shard_size=4
        )
    with pytest.raises(StoreError, match="shard 1 holds other passages"):
        write(tmp_path, 6)
    same_ids = [Passage(f"p{row}", "other") for row in range(10)]
    with pytest.raises(StoreError, match="shard 0 holds other passages"):
        write_store(lambda: same_ids, HashEncoder(), tmp_path, source={"corpus": "ten"}, shard_size=4)


def test_a_clearing_that_an_older_version_left_is_begun_anew(tmp_path: Path) -> None:
    plan = {"format": "llama2vec-store", "version": 1, "clearing": True}
    (tmp_path / "writing.json").write_text(json.dumps(plan))
    (tmp_path / "shard-00000.vectors.npy").write_bytes(b"old")
    assert len(write(tmp_path)) == 10


def test_an_overwritten_store_can_be_read_until_the_new_one_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "s"
    write(output)
    before = files(output)
    begin(output, 1, shard_size=3, overwrite=True)
    assert files(output) == before
    encoder = HashEncoder()
    write(output, encoder=encoder, shard_size=3, overwrite=True)
    assert encoder.encoded == ["p3", "p4", "p5", "p6", "p7", "p8", "p9"]
    assert len(list(output.glob("shard-*.json"))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_file_of_the_user_in_a_store_is_not_deleted(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"holds notes\.txt, which llama2vec did not write"):
        write(tmp_path, shard_size=3, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("shard_size", [0, -1, 10**30])
def test_a_shard_size_that_cannot_be_is_one_line(tmp_path: Path, shard_size: int) -> None:
    with pytest.raises(ConfigError, match="shard_size must lie between 1 and"):
        write(tmp_path / "s", shard_size=shard_size)
    assert not (tmp_path / "s").exists()


class Batchwise(HashEncoder):
    """Two passages a batch; interrupted before its nth batch."""

    def __init__(self, batches: int = 1000) -> None:
        super().__init__()
        self.left = batches

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[list[int], Vectors]]:
        for start in range(0, len(passages), 2):
            rows = list(range(start, min(start + 2, len(passages))))
            if skip is not None and skip[rows].all():
                continue
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield rows, self.encode_passages([passages[row] for row in rows])


@pytest.mark.parametrize("damage", ["", "bit", "other passages"])
def test_an_interrupted_shard_goes_on_where_it_was(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "whole")
    output = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        write(output, encoder=Batchwise(3))
    partial = output / "shard-00001.partial.npz"
    if damage == "bit":
        content = bytearray(partial.read_bytes())
        content[-200] ^= 1
        partial.write_bytes(content)
    if damage == "other passages":
        with np.load(partial) as found:
            np.savez(partial, passages="other", known=found["known"], vectors=found["vectors"] + 1)
    encoder = Batchwise()
    write(output, encoder=encoder)
    assert encoder.encoded == [f"p{number}" for number in range(4 if damage else 6, 10)]
    assert files(output) == files(tmp_path / "whole")


def test_progress_is_saved_every_minute_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_SAVE_SECONDS", 0.0)
    saved: list[bool] = []

    class Killed(Batchwise):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            saved.append((tmp_path / "shard-00000.partial.npz").exists())
            return super().encode_passages(passages)

    write(tmp_path, 8, encoder=Killed())
    assert saved == [False, True, False, False]
    assert not list(tmp_path.glob("*.partial.npz"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_store_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    for name, content in (("thesis.txt", "years of work"), ("store.json", "{}"), ("writing.json", "not json")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(OutputExistsError, match="does not hold a vector store"):
            write(folder, overwrite=overwrite)
        assert files(folder) == {name: content.encode()}
    with pytest.raises(OutputExistsError, match="does not hold a vector store"):
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
    with pytest.raises(DataError, match=r"^disk full while writing .*/s; free space and run the same command again$"):
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
    assert not tmp_path.exists()


def test_a_shard_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    begin(tmp_path, 1)
    lock = Lock(tmp_path / "shard-00001.claim")
    assert lock.acquire()
    threading.Timer(0.3, lock.release).start()
    encoder = HashEncoder()
    write(tmp_path, encoder=encoder)
    assert encoder.encoded == ["p8", "p9", "p4", "p5", "p6", "p7"]


def test_overwrite_does_not_take_a_store_from_a_living_writer(tmp_path: Path) -> None:
    begin(tmp_path / "s", 1)
    lock = Lock(tmp_path / "s" / "shard-00001.claim")
    assert lock.acquire()
    try:
        with pytest.raises(OutputExistsError, match="another process is writing it"):
            write(tmp_path / "s", shard_size=3, overwrite=True)
    finally:
        lock.release()
    assert (tmp_path / "s" / "shard-00000.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_writer_that_another_overtakes_returns_the_finished_store(tmp_path: Path, overwrite: bool) -> None:
    class Overtaken(HashEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if passages[0].id == "p4" and overwrite:
                # As if the other process had written this shard before and the rest meanwhile.
                write(tmp_path / "other", shard_size=4)
                for path in (tmp_path / "other").iterdir():
                    os.replace(path, new / path.name)
                os.rename(tmp_path / "s", tmp_path / "old")
                os.rename(new, tmp_path / "s")
            return super().encode_passages(passages)

    new = tmp_path / ".new-s"
    write(tmp_path / "s", shard_size=3)
    store = write(tmp_path / "s", encoder=Overtaken(), shard_size=4, overwrite=True)
    assert len(list(store.path.glob("shard-*.json"))) == 3


def test_a_store_without_an_encoder_holds_the_same_texts_and_no_vectors(tmp_path: Path) -> None:
    store, other = write(tmp_path / "texts", encoder=None), write(tmp_path / "vectors")
    assert (store.has_vectors, store.dimension, store.contract_hash, len(store)) == (False, 0, "", 10)
    assert list(store.passages(range(10))) == list(other.passages(range(10)))
    assert not list(store.path.glob("*.vectors.npy"))
    store.verify()
    for read in (lambda: store.vectors([1]), lambda: next(store.shards())):
        with pytest.raises(StoreError, match=r"has no vectors; add them with `llama2vec encode MODEL ten -o .*texts"):
            read()
    with pytest.raises(StoreError, match="has no vectors to reuse"):
        reuse.KnownVectors(HashEncoder(), store)


def test_a_store_without_vectors_is_resumed_and_replaced_by_one_with_vectors(tmp_path: Path) -> None:
    whole = files(write(tmp_path / "whole", encoder=None).path)
    (tmp_path / "whole" / "shard-00001.passages.jsonl").write_text("damaged")
    assert files(write(tmp_path / "whole", encoder=None).path) == whole
    with pytest.raises(OutputExistsError, match="with other settings"):
        write(tmp_path / "whole")
    assert files(tmp_path / "whole") == whole
    assert write(tmp_path / "whole", overwrite=True).dimension == WIDTH


class ReadsLittle(HashEncoder):
    """An encoder that reads two words of a passage."""

    def count_cut(self, passages: Sequence[Passage]) -> int:
        return sum(len(passage.full_text.split()) > 2 for passage in passages)


def test_a_store_knows_how_many_passages_are_cut_and_the_user_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = [Passage(str(number), "one two three" if number % 3 == 0 else "one") for number in range(10)]

    class StopsLate(ReadsLittle, Stops):
        """Is interrupted in its third shard."""

    with pytest.raises(KeyboardInterrupt):
        write_store(lambda: passages, StopsLate(2), tmp_path / "store", source={}, shard_size=4)
    assert "the model reads only the beginning of 2 of the first 4 passages" in caplog.text
    store = write_store(lambda: passages, ReadsLittle(), tmp_path / "store", source={}, shard_size=4)
    assert store.cut == 4
    warn_of_cut_passages(store, "split them")
    assert "the model reads only the beginning of 4 of 10 passages (40 %)" in caplog.text
    older = write_store(lambda: passages, HashEncoder(), tmp_path / "whole", source={}, shard_size=4)
    caplog.clear()
    warn_of_cut_passages(older, "split them")
    assert (older.cut, caplog.text) == (0, "")
    known = KnownVectors(ReadsLittle(), store)
    reused = write_store(lambda: passages, known, tmp_path / "reused", source={}, shard_size=4)
    assert (known.reused, reused.cut) == (10, 4)


def test_the_hash_of_plain_passages_stays_and_fields_and_places_change_it() -> None:
    plain = Passage("a", "text", "title")
    assert passages_sha256([plain]) == "4bdda7f3394e994c1b3d2cb301aa9b2b5aafb948589ef5a8dd54d04890362682"
    others = [Passage("a", "text", "title", fields={"year": 1}), Passage("a", "text", "title", Place("a", 0, 4))]
    assert len({passages_sha256([passage]) for passage in (plain, *others)}) == 3

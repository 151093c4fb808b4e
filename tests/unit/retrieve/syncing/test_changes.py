"""What changed in a folder, and the passages of its next state in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from synced_folder import BlankLineSource, age, sync, write

from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.syncing.changes import Changes
from llama2vec.retrieve.syncing.inventory import Inventory

FILES = {f"{name}.txt": f"one {name}\n\ntwo {name}" for name in "abcdef"}


def present(index: Path) -> tuple[Inventory, VectorStore]:
    return Inventory.read(index), VectorStore.open(index / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", FILES)


def test_passages_of_unchanged_touched_and_changed_files_come_in_the_order_of_the_paths(
    folder: Path, tmp_path: Path
) -> None:
    sync(folder, tmp_path / "index")
    age(folder / "b.txt", 1_200_000_000)
    write(folder, {"d.txt": "three d"})
    (folder / "e.txt").unlink()
    with Changes(BlankLineSource(folder), *present(tmp_path / "index")) as changes:
        texts = [passage.text for passage in changes.passages()]
        assert texts == ["one a", "two a", "one b", "two b", "one c", "two c", "three d", "one f", "two f"]
        assert list(changes.passages()) == list(changes.passages())
        assert (changes.total, changes.differs) == (9, True)
        times = [passage.fields["modified"] for passage in changes.passages()]
        assert times[2:4] == ["1200000000"] * 2
        assert set(times[:2] + times[4:]) == {"1000000000"}


def test_only_a_difference_in_the_passages_counts(folder: Path, tmp_path: Path) -> None:
    sync(folder, tmp_path / "index")
    write(folder, {"0.txt": "unreadable"})
    with Changes(BlankLineSource(folder), *present(tmp_path / "index")) as changes:
        assert (changes.differs, changes.counts.added) == (False, 0)
        assert [record.skipped for record in changes.records] == ["encrypted", *[""] * 6]
    write(folder, {"f.txt": "unreadable"})
    with Changes(BlankLineSource(folder), *present(tmp_path / "index")) as changes:
        assert (changes.differs, changes.total) == (True, 10)


def test_without_a_usable_store_every_file_is_read(folder: Path, tmp_path: Path) -> None:
    sync(folder, tmp_path / "index")
    source = BlankLineSource(folder)
    with Changes(source, Inventory.read(tmp_path / "index"), None) as changes:
        assert (source.read_paths, changes.total, changes.differs) == (list(FILES), 12, True)


def test_a_file_that_cannot_be_opened_is_skipped_with_the_reason(folder: Path) -> None:
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    with Changes(BlankLineSource(folder), None, None) as changes:
        assert [record.skipped for record in changes.records][:1] == ["a pipe, not a file"]
        assert changes.total == 10

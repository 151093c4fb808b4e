"""An index that follows a folder equals one made from nothing, whatever happened to the folder and to the syncs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from synced_folder import HashEncoder, content, sync, write

from llama2vec.records import Query
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.syncing.library import Library

WORDS = ["river", "stone", "bridge", "castle", "winter", "market", "harbor", "engine", "letter", "garden", "forest"]
QUERIES = [Query(word, f"{word} {other}") for word, other in zip(WORDS, WORDS[3:], strict=False)]
NAMES = [f"{folder}{name}.txt" for folder in ("", "a/", "b/c/", "z z/") for name in "klmn"]
STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "ctypes.dlsym")
"""Moments at which something on the disk may change, as Python's audit events name them."""


class Folder:
    """A folder to which random things happen, at a time of its own."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.draw, self.seconds = path, random.Random(seed), 1_000_000_000
        path.mkdir()
        for _ in range(6):
            self.add()

    def files(self) -> list[Path]:
        return sorted(self.path.rglob("*.txt"))

    def text(self) -> str:
        parts = (" ".join(self.draw.choices(WORDS, k=self.draw.randint(2, 6))) for _ in range(self.draw.randint(1, 4)))
        return "\n\n".join(parts)

    def add(self) -> None:
        self.seconds += 1
        write(self.path, {self.draw.choice(NAMES): self.text()}, self.seconds)

    def edit(self) -> None:
        self.seconds += 1
        file = self.draw.choice(self.files())
        write(self.path, {file.relative_to(self.path).as_posix(): self.text()}, self.seconds)

    def rename(self) -> None:
        target = self.path / self.draw.choice(NAMES)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.draw.choice(self.files()).rename(target)

    def delete(self) -> None:
        files = self.files()
        if len(files) > 2:
            self.draw.choice(files).unlink()

    def change(self) -> None:
        self.draw.choice((self.add, self.edit, self.rename, self.delete))()


def answers(index: Path) -> list[object]:
    """Return what an index answers in every mode."""
    retriever = Retriever.open(index, HashEncoder())
    retriever.store.verify()
    return [retriever.search(QUERIES, mode, depth=20).results for mode in retriever.modes]


def anew(folder: Path, index: Path) -> tuple[dict[str, bytes], list[object]]:
    """Return content and answers of an index made from nothing, in the same place."""
    kept = index.with_name("kept")
    if index.exists():
        index.rename(kept)
    sync(folder, index, HashEncoder())
    made = content(index), answers(index)
    shutil.rmtree(index)
    if kept.exists():
        kept.rename(index)
    return made


@pytest.mark.parametrize("seed", range(2))
def test_fifty_changes_give_what_an_index_made_from_nothing_gives(tmp_path: Path, seed: int) -> None:
    folder, index = Folder(tmp_path / "docs", seed), tmp_path / "index"
    read = encoded = 0
    for number in range(50):
        folder.change()
        if folder.draw.random() < 0.7 or number == 49:
            report = sync(folder.path, index, HashEncoder())
            read += report.counts.added + report.counts.changed + report.counts.renamed
            encoded += report.encoded
        if number % 10 == 9:
            sync(folder.path, index, HashEncoder())
            assert (content(index), answers(index)) == anew(folder.path, index)
    assert [record.path for record in Library(index).inventory.files] == [
        file.relative_to(folder.path).as_posix() for file in folder.files()
    ]
    assert read <= 6 + 50 + 5
    assert encoded < 50 * 10


def killed_at(step: int, folder: Path, index: Path) -> bool:
    """Sync in another process that is killed at its n-th step; return whether it was."""
    child = os.fork()
    if not child:
        left = step

        def count(event: str, _: Sequence[object]) -> None:
            nonlocal left
            if event in STEPS:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            sync(folder, index, HashEncoder())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def steps() -> Iterator[tuple[int, int]]:
    """Yield 30 moments: numbers of steps, spread over a whole sync."""
    draw = random.Random(0)
    for number in range(30):
        yield number, draw.randint(1 + 6 * number, 6 + 6 * number)


def test_a_sync_killed_at_any_moment_leaves_the_old_or_the_new_state_and_the_next_one_completes(tmp_path: Path) -> None:
    folder, index = Folder(tmp_path / "docs", 7), tmp_path / "index"
    kills = 0
    for number, step in steps():
        # Every third index is made from nothing.
        if number % 3 == 0 and index.exists():
            shutil.rmtree(index)
        old = (content(index), answers(index)) if index.exists() else None
        folder.change()
        folder.edit()
        new = anew(folder.path, index)
        kills += killed_at(step, folder.path, index)
        there = (content(index), answers(index)) if (index / "documents.json").exists() else None
        assert there in (old, new), (number, step)
        sync(folder.path, index, HashEncoder())
        assert (content(index), answers(index)) == new, (number, step)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "index"]
    assert kills >= 25


def test_vectors_of_a_killed_sync_are_not_made_again(tmp_path: Path) -> None:
    folder, index = Folder(tmp_path / "docs", 3), tmp_path / "index"
    sync(folder.path, index)
    made = len(Retriever.open(index).store)
    spared = 0
    for step in range(10, 200, 15):
        kept = tmp_path / "kept"
        shutil.copytree(index, kept)
        killed_at(step, folder.path, index)
        journal = (tmp_path / ".vectors-index").exists()
        if Retriever.open(index).store.has_vectors:
            shutil.rmtree(kept)
            break
        encoder = HashEncoder()
        sync(folder.path, index, encoder)
        spared = max(spared, made - len(set(encoder.encoded))) if journal else spared
        shutil.rmtree(index)
        kept.rename(index)
    assert spared > 0

"""A folder of small texts for tests of an index that follows it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.data.documents.folder import SourceFile, Walk, file_bytes, walk
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Passage, Place, Query
from llama2vec.retrieve.settings import LibrarySettings
from llama2vec.retrieve.syncing.library import Library, SyncReport

SETTINGS = LibrarySettings(shard_size=5)
WIDTH = 16


class BlankLineSource:
    """Text files whose passages are the parts between blank lines; ``unreadable`` in a file makes it so."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.folder, self.plan, self.settings = folder, plan, {"note": "words"}
        self.read_paths: list[str] = []

    def walk(self, without: Collection[Path]) -> Walk:
        return walk(self.folder, ReadingSettings(include=("*.txt",)), without=without)

    def content(self, file: SourceFile) -> bytes:
        return file_bytes(file, ReadingSettings())

    def read(self, file: SourceFile, content: bytes) -> tuple[Sequence[Passage], Sequence[str]]:
        self.read_paths.append(file.name)
        text = content.decode()
        if "unreadable" in text:
            raise UnreadableError("encrypted")
        problems = ["page 2 is a picture"] if "picture" in text else []
        return [replace(part, fields={"modified": self.stamp(file)}) for part in self._parts(file.name, text)], problems

    def _parts(self, path: str, text: str) -> Iterator[Passage]:
        for number, part in enumerate(filter(None, text.split("\n\n")), start=1):
            yield Passage(f"{path}#{number}", part, path.partition(".")[0], Place(path, 0, len(part)))

    def stamp(self, file: SourceFile) -> str:
        return str(file.modified_ns // 10**9)


class HashEncoder:
    """Vectors that depend on nothing but the text; it counts what it read."""

    dimension = WIDTH

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash
        self.encoded: list[str] = []

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:WIDTH], np.uint8) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, WIDTH) - 127.5
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.encoded += [passage.full_text for passage in passages]
        return self._vectors([passage.full_text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])


def write(folder: Path, files: Mapping[str, str], seconds: int = 1_000_000_000) -> Path:
    """Write texts into a folder, with times long ago."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        age(folder / name, seconds)
    return folder


def age(file: Path, seconds: int = 1_000_000_000) -> None:
    """Give a file a time that is not just now."""
    os.utime(file, (seconds, seconds))


def sync(folder: Path, index: Path, encoder: HashEncoder | None = None, **options: Any) -> SyncReport:
    """Bring an index up to date with a folder."""
    source = options.pop("source", None) or BlankLineSource(folder)
    return Library(index).sync(source, encoder, options.pop("settings", SETTINGS), **options)


def content(index: Path) -> dict[str, bytes]:
    """Return every file of an index but the inventory, which also holds times."""
    files = (path for path in index.rglob("*") if path.is_file() and path.name != "documents.json")
    return {path.relative_to(index).as_posix(): path.read_bytes() for path in files}

"""A folder of documents as what an index follows: walked, read by format, and split into passages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llama2vec.data.documents.folder import SourceFile, Walk, file_bytes, modified_day, walk, with_modified
from llama2vec.data.documents.readers import FORMATS, old_office, read_bytes
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import ReadingSettings
from llama2vec.records import Passage

_READERS = 6
"""Raise it when the readers make other documents of the same bytes, so that every index is read again."""


class FolderSource:
    """A folder, or one file.

    Args:
        folder: Where the documents are.
        reading: How files are read.
        splitter: Cuts documents into passages.
        told: Patterns of an earlier sync, which has warned of those that match nothing.
    """

    def __init__(self, folder: Path, reading: ReadingSettings, splitter: Splitter, told: Collection[str] = ()) -> None:
        self.folder, self._told = folder, told
        self._reading, self._splitter = reading, splitter

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the folder is read, for the next time."""
        passages = self._splitter.settings
        return {"reading": self._reading.model_dump(mode="json"), "passages": passages.model_dump(mode="json")}

    @property
    def plan(self) -> Mapping[str, Any]:
        """What decides the passages besides a file's name and bytes: settings, tokenizer, and packages of readers."""
        return {**reading_plan(self._reading), "passages": dict(self._splitter.plan)}

    def walk(self, without: Collection[Path]) -> Walk:
        """Return the files, without those in ``without``."""
        return walk(self.folder, self._reading, without=without, told=self._told)

    def content(self, file: SourceFile) -> bytes:
        """Return the bytes of a file; an UnreadableError where there are none to be had."""
        return file_bytes(file, self._reading)

    def read(self, file: SourceFile, content: bytes) -> tuple[Sequence[Passage], Sequence[str]]:
        """Return a file's passages, and what is missing from them; an UnreadableError if nothing can be read."""
        documents = [with_modified(one, file.modified_ns) for one in read_bytes(content, file.name, self._reading)]
        problems = dict.fromkeys(problem for one in documents for problem in one.problems)
        return [passage for one in documents for passage in self._splitter.split(one)], list(problems)

    def stamp(self, file: SourceFile) -> str:
        """Return what of a file's time its passages show: the day of its last change."""
        return modified_day(file.modified_ns)


def reading_plan(settings: ReadingSettings) -> dict[str, Any]:
    """Return what decides the documents of a file besides its name and bytes: settings, readers and their packages."""
    reading = settings.model_dump(mode="json", exclude={"strict", "include", "exclude"})
    packages = {name: _version(name) for one in FORMATS for name in one.packages}
    if old_office.program():  # Files that were skipped without it are read again
        packages["LibreOffice"] = "installed"
    return {"readers": _READERS, "reading": reading, "packages": packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

"""The documents of an index, read-only: regular files of one folder, never through a link, never as a web page."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from llama2vec.errors import ConfigError
from llama2vec.records import Passage
from llama2vec.retrieve.search.hits import corpus_folder, document_file
from llama2vec.retrieve.store.reader import VectorStore

_PIECE_BYTES = 1 << 18
_POLICY = "sandbox; default-src 'none'"
_POLICY_OF_PDF = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'"
_LOOKED_AT = 4096
_ONLY_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_BY_FOLDER = os.open in os.supports_dir_fd


class CorpusFiles:
    """The folder that an index was made from.

    Raises:
        ConfigError: It is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"--files {folder}: is not a folder; give the one that the index was made from")
        self._folder = folder.resolve()

    def address(self, passage: Passage) -> str | None:
        """Return the address of a passage's document, relative to the service's; None where :meth:`open` gives none."""
        place = passage.place
        file = document_file(self._folder, place.document) if place else None
        path = file.relative_to(self._folder).as_posix() if file else ""
        opened = self.open(path)
        if opened is None:
            return None
        opened.close()
        return f"files/{quote(path)}"

    def open(self, path: str) -> BufferedReader | None:
        """Open a file of the folder; None for anything but a regular file that is reached without a link."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or {"..", "."} & set(path.split("/")) or "\0" in path:
            return None
        with suppress(OSError):
            handle = self._handle(parts)
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return open(handle, "rb")
            os.close(handle)
        return None

    def _handle(self, parts: tuple[str, ...]) -> int:
        if not _BY_FOLDER:
            file = self._folder.joinpath(*parts)
            if file.resolve() != file:
                raise OSError(f"{file} is reached through a link")
            return os.open(file, _ONLY_READ | _BINARY)
        # One part at a time, so that no link can appear between a check and its use.
        folder = os.open(self._folder, _ONLY_READ)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _ONLY_READ | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(parts[-1], _ONLY_READ | _BINARY, dir_fd=folder)
        finally:
            os.close(folder)


class FilesOfIndex:
    """The documents of an index: those in one folder, or in the one that each state of the index names (``auto``).

    Raises:
        ConfigError: It is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        self._files = None if str(folder) == "auto" else CorpusFiles(folder)

    def of(self, store: VectorStore) -> CorpusFiles | None:
        """Return the documents of one state of the index; None where the folder that it names is not there."""
        if self._files is None and (folder := corpus_folder(store)):
            with suppress(ConfigError):  # It went away at this moment
                return CorpusFiles(folder)
        return self._files


def size_of(file: BufferedReader) -> int:
    """Return the bytes of a file, which may grow afterwards."""
    return os.fstat(file.fileno()).st_size


def headers_of(file: BufferedReader, path: str, size: int) -> dict[str, str]:
    """Return the headers that tell a browser what a file is; only text and PDF are shown, anything else is saved."""
    begin = file.peek(_LOOKED_AT)[:_LOOKED_AT]
    kind, shown, policy = "application/octet-stream", "attachment", _POLICY
    if begin.startswith(b"%PDF-"):
        # Browsers show a PDF in a viewer of their own, which a sandbox would keep out.
        kind, shown, policy = "application/pdf", "inline", _POLICY_OF_PDF
    elif _is_text(begin):
        kind, shown = "text/plain; charset=utf-8", "inline"
    name = quote(PurePosixPath(path).name, safe="")
    return {
        "Content-Type": kind,
        "Content-Length": str(size),
        "Content-Disposition": f"{shown}; filename*=UTF-8''{name}",
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
    }


def pieces(file: BufferedReader, size: int) -> Iterator[bytes]:
    """Yield the first ``size`` bytes of a file in pieces, as many as its headers promise, and close it."""
    with file:
        left = size
        while left > 0 and (piece := file.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece


def _is_text(begin: bytes) -> bool:
    """Tell whether bytes from the start of a file are UTF-8 text; the last letter may be cut."""
    if b"\0" in begin:
        return False
    try:
        begin.decode()
    except UnicodeDecodeError as error:
        return error.start > len(begin) - 4 and error.reason == "unexpected end of data"
    return True

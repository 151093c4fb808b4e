"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama2vec.errors import DataError, OutputExistsError


def write_atomic(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that it is there in full or not at all, whatever happens, also after a power cut."""
    temp = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        write_hashed(temp, [content] if isinstance(content, bytes) else content)
        os.replace(temp, path)
        sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def write_json(path: Path, data: object) -> None:
    """Write indented JSON atomically."""
    write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def write_output(path: Path, content: str | Iterable[bytes], *, overwrite: bool = False) -> None:
    """Write a result that the user asked for, a text or a stream, atomically; folders on the way are made.

    Raises:
        OutputExistsError: The file is there already and ``overwrite`` is not given.
        DataError: The file cannot be written.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(f"{path} exists already; choose another path or --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); check the folder and the disk") from None


def write_hashed(path: Path, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Write the chunks through to the disk; return their ``bytes`` and ``sha256``."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make moves within a folder survive a power cut; not every file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

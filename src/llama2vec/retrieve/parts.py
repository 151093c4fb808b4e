"""What an index folder carries beside its vectors: ``bm25/`` and ``sparse/``, each whole or not there.

A part's ``part.json`` names the store it was made of, by hash, and the size and checksum of each of its files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama2vec.errors import OutputExistsError, StoreError
from llama2vec.files import file_sha256, write_json
from llama2vec.records import Passage
from llama2vec.retrieve.index import replaced_folder
from llama2vec.retrieve.store import VectorStore

PART_FILE = "part.json"
_FORMAT = "llama2vec-index-part"
_FORMAT_VERSION = 1
_READ_PASSAGES = 2048


@contextmanager
def new_part(folder: Path, store: VectorStore, facts: Mapping[str, object]) -> Iterator[Path]:
    """Give a new folder to fill with files; with its manifest it takes the place of ``folder`` when all went well.

    Args:
        folder: Of the part, inside the index folder.
        store: What the part is made of.
        facts: Further entries of the manifest.
    """
    with replaced_folder(folder) as new:
        yield new
        files = {file.name: _flushed(file) for file in sorted(new.iterdir())}
        head = {"format": _FORMAT, "version": _FORMAT_VERSION, "part": folder.name, "store_sha256": store_sha256(store)}
        write_json(new / PART_FILE, {**head, **facts, "files": files})


def open_part(folder: Path, store: VectorStore) -> dict[str, Any]:
    """Check a part against its manifest and the store; return the manifest.

    Raises:
        StoreError: The part was made of another store, or a file is missing or has another checksum.
    """
    again = f"add it again with `llama2vec index {store.path} --output {folder.parent} --{folder.name} --overwrite`"
    try:
        manifest = json.loads((folder / PART_FILE).read_bytes())
        known = (manifest["format"], manifest["version"], manifest["part"]) == (_FORMAT, _FORMAT_VERSION, folder.name)
        made_of, files = manifest["store_sha256"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / PART_FILE} cannot be read; {again}") from error
    if not known:
        raise StoreError(f"{folder} is not a part of an index that this llama2vec reads; {again}")
    if made_of != store_sha256(store):
        raise StoreError(f"{folder} was made of another store than {store.path}; {again}")
    for name, expected in files.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != expected["sha256"]:
            raise StoreError(f"{file} is missing or damaged; {again}")
    return dict(manifest)


def refuse_existing_part(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a part may be written.

    Raises:
        OutputExistsError: It is there and may not be replaced.
    """
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} is there already; pass --overwrite to make it anew")


def store_passages(store: VectorStore) -> Iterator[Passage]:
    """Yield the passages of a store in row order, a few thousand in memory at a time."""
    for begin in range(0, len(store), _READ_PASSAGES):
        yield from store.passages(range(begin, min(begin + _READ_PASSAGES, len(store))))


def store_sha256(store: VectorStore) -> str:
    """Return the hash of a store's manifest, which holds the checksums of all its files."""
    return file_sha256(store.path / "store.json")


def _flushed(file: Path) -> dict[str, object]:
    """Write a file through to the disk; return its size and checksum."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "sha256": file_sha256(file)}

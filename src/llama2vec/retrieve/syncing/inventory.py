"""What an index that follows a folder holds of each of its files: ``documents.json``.

The rows of the store stand in the order of the files here, which are sorted by path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from llama2vec.artifact import Found, Kind, bring_back, read_object
from llama2vec.errors import StoreError
from llama2vec.files import write_atomic
from llama2vec.manifest import SEAL, digest, sealed, unsealed
from llama2vec.retrieve.index.folder import MANIFEST
from llama2vec.retrieve.store.reader import STORE_FILE, read_errors

INVENTORY_FILE, STORE_FOLDER, INDEX_FOLDER = "documents.json", "store", "index"
_FORMAT: dict[str, Any] = {"format": "llama2vec-library", "version": 1}


class FileRecord(BaseModel):
    """One file of the folder, and what the store holds of it."""

    model_config = ConfigDict(frozen=True)

    path: str  # Relative to the folder
    size: int = 0  # Bytes
    modified_ns: int | None = None  # None = it was written just before it was read, so its time proves nothing
    stamp: str = ""  # What its passages show of its time
    sha256: str = ""  # "" = it was not read
    passages: int = 0  # In the store
    skipped: str = ""  # Why it has no passage
    problems: tuple[str, ...] = ()  # What could not be read of it
    numbers: dict[str, int] = {}  # Of its documents whose ids were taken: the number that their ids end in
    removed: Literal["all"] | tuple[int, ...] = ()  # Places of its passages that `remove` took out, from 0
    # Of each place the hash of the text, and how many equal texts stand before it; then those of removed passages that
    # are not found as the file is split now.
    removed_texts: Annotated[tuple[str, ...], Field(validate_default=True)] = ()

    @field_validator("removed_texts")
    @classmethod
    def _one_for_each_place(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        removed = info.data.get("removed", ())
        if removed != "all" and (len(texts) < len(removed) or "" in texts):
            raise ValueError("a removed passage has no text")
        return texts

    @property
    def removals(self) -> int | None:
        """How many passages `remove` took out; None = all."""
        return None if self.removed == "all" else len(self.removed_texts)

    @property
    def nothing_left(self) -> bool:
        """Whether it has no passage in the store because `remove` took out all that it has now."""
        return self.passages == 0 and self.removed != ()


class Inventory(BaseModel):
    """Content of ``documents.json``."""

    model_config = ConfigDict(frozen=True)

    format: Literal["llama2vec-library"] = "llama2vec-library"
    version: Literal[1] = 1
    folder: str  # Absolute path of what the index follows
    settings: dict[str, Any]  # How the passages are indexed
    source: dict[str, Any]  # How the folder is read
    plan: dict[str, Any]  # What decides the passages of a file besides its bytes
    model: dict[str, Any] | None = None  # How to load the encoder, with paths relative to the store; None = not known
    contract_hash: str = ""  # How the vectors were made; "" without vectors
    versions: dict[str, int] = {}  # Formats of the table of fields and of BM25's words; {} = not known
    files: tuple[FileRecord, ...]  # Sorted by path

    @classmethod
    @read_errors()
    def read(cls, library: Path) -> Inventory:
        """Return the inventory of an index; a StoreError if there is none or it is damaged."""
        bring_back(library)
        file = library / INVENTORY_FILE
        content = read_object(file)
        if content is None:
            raise StoreError(f"{library} is not an index that follows a folder; make one with `llama2vec sync`")
        content = unsealed(content)
        if content is None:
            raise StoreError(f"{file} was changed after it was written; restore it, or delete {library} and sync again")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise StoreError(f"{file}: {where} is damaged; delete {library} and sync again") from None

    def write(self, library: Path) -> None:
        """Write it into an index, one line per file."""
        files = [record.model_dump(mode="json", exclude_defaults=True) for record in self.files]
        facts = self.model_dump(mode="json", exclude={"files"})
        seal = sealed({**facts, "files": files})[SEAL]
        head = json.dumps({**facts, SEAL: seal}, ensure_ascii=False)[:-1]
        lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in files]
        text = f'{head}, "files": [\n' + ",\n".join(lines) + "\n]}\n"
        write_atomic(library / INVENTORY_FILE, text.encode(errors="surrogatepass"))

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the passages: equal hashes mean equal stores."""
        kept = [record for record in self.files if record.passages]
        files = [
            [record.path, record.sha256, record.stamp, record.removed, *([record.numbers] if record.numbers else ())]
            for record in kept
        ]
        return digest([files, self.plan])

    def spans(self) -> Iterator[tuple[FileRecord, range]]:
        """Yield every file with the rows of the store that are its own."""
        row = 0
        for record in self.files:
            yield record, range(row, row + record.passages)
            row += record.passages


def _read_library(folder: Path) -> Found | None:
    """Return the plan of the index in a folder, or None where it holds something else."""
    content = read_object(folder / INVENTORY_FILE)
    if content is None or content.get("format") != _FORMAT["format"]:
        return None
    plan: Mapping[str, Any] = {name: content.get(name) for name in ("settings", "plan", "contract_hash")}
    whole = (folder / STORE_FOLDER / STORE_FILE).is_file() and (folder / INDEX_FOLDER / MANIFEST).is_file()
    return Found(plan, finished=whole)


LIBRARY = Kind(
    "an index that follows a folder",
    _read_library,
    resumable=False,
    entries=(f"{STORE_FOLDER}/**", f"{INDEX_FOLDER}/**", INVENTORY_FILE),
)

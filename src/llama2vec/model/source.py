"""Find a model's files by the user's name for it or by a store's spec, and check that they are whole."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import struct
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from llama2vec.artifact import read_object
from llama2vec.config import EncoderSettings, PromptSettings, Settings, load_config
from llama2vec.errors import ModelError, ModelNotFoundError, StoreError
from llama2vec.files import file_sha256, write_json
from llama2vec.locks import Lock
from llama2vec.manifest import digest
from llama2vec.model.packaged import PACKAGED
from llama2vec.shipped import model_folders

CONTRACT_FILE = "llama2vec.json"
COMPACT_FILES = ("compact.json", "adapter_model.safetensors", "adapter_config.json")
"""What a compact encoder holds instead of weights."""
COMPACT_FILE, COMPACT_ADAPTER, ADAPTER_CONFIG = COMPACT_FILES
EXPORT_FILE = "export.json"  # Of `export`
QUERY_TABLE_FILE = "query_table.json"  # Of `distill`
_COMES_WITH_CONTRACT = ("golden.json", "portable_encoder.py")
_REMEMBERED_HASHES = 1024
# A file that was written this recently may change again without a new time stamp.
_SETTLED_SECONDS = 2.0
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The location of a model's files."""

    name: str  # What the user asked for.
    location: str  # Folder, or the hub id of a model that is not in the hub's cache yet.
    gguf_file: str | None = None  # Name of the GGUF file inside the folder.
    hub_id: str | None = None
    compact: str = ""  # Folder of the compact encoder that the files in ``location`` were merged from.

    @property
    def carries_contract(self) -> bool:
        """Whether the model was saved with a contract of its own."""
        return not self.gguf_file and (Path(self.location) / CONTRACT_FILE).is_file()

    def weight_files(self) -> list[Path]:
        """Return the files that hold the weights; none if the model is not on this machine."""
        folder = Path(self.location)
        if self.gguf_file:
            return [folder / self.gguf_file]
        return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))

    def fingerprint(self) -> str:
        """Identify the weights by a hash over all of the local files, else over the hub id."""
        files = self.weight_files()
        return weights_fingerprint(files) if files else hashlib.sha256(self.location.encode()).hexdigest()

    def check_files(self) -> None:
        """Raise a ModelError if a weight file is a Git LFS pointer, or was cut short."""
        for file in self.weight_files():
            if fault := _fault(file):
                raise ModelError(f"{file}: {fault}; fetch it again")


def own_models() -> dict[str, Path | None]:
    """Return the models that have a name of ours: LLMs from packages, and the compact encoders that we ship."""
    return {**dict.fromkeys(PACKAGED), **model_folders()}


def meant(name: str) -> str:
    """Return a question that names the model of ours whose name is nearly the given one, "" if none is.

    >>> meant("smolm2-135m")
    "did you mean 'smollm2-135m'? "
    """
    near = difflib.get_close_matches(name, own_models(), n=1, cutoff=0.8)
    return f"did you mean '{near[0]}'? " if near and near[0] != name else ""


class ModelSpec(Settings):
    """A model and how it reads texts, as a store records it; :meth:`Encoder.from_spec` loads the same encoder again.

    A model is named either by ``path`` or by ``name``, never by a string that could mean both: a folder that has moved
    must not be looked up on the public hub, where anybody may own its name.
    """

    path: str = ""  # Absolute path of a model folder or GGUF file.
    name: str = ""  # Hub id, an LLM from a package, or an encoder that llama2vec ships.
    # For a model without a contract:
    prompts: PromptSettings | None = None
    encoder: EncoderSettings | None = None
    layers: Annotated[int, Field(ge=0)] = 0  # Number of its lowest layers that give the vectors; 0 = all

    @model_validator(mode="after")
    def _names_one_model(self) -> ModelSpec:
        if bool(self.path) == bool(self.name):
            raise ValueError("give either a path or a name")
        return self

    @classmethod
    def of_source(cls, source: ModelSource, **reading: Any) -> ModelSpec:
        """Describe a model whose files have been found; ``reading`` are the fields of a model without a contract."""
        if source.name in own_models() or source.hub_id:
            return cls(name=source.name if source.name in own_models() else str(source.hub_id), **reading)
        return cls(path=str(Path(source.compact or source.location, source.gguf_file or "").resolve()), **reading)

    @classmethod
    def of_store(cls, source: Mapping[str, object], folder: str | Path, model: str | Path | None = None) -> ModelSpec:
        """Read the spec that the store in ``folder`` keeps in its ``source``.

        Another ``model`` replaces the store's; without a contract it reads texts as the store's did.

        Raises:
            StoreError: The store does not say which model made it.
            ModelNotFoundError: ``model`` is missing.
        """
        folder, given = Path(folder).resolve(), None if model is None else resolve_model(str(model))
        if given is not None and given.carries_contract:
            return cls.of_source(given)
        try:
            spec = cls.parsed(_without_format(source.get("model")))
        except ValidationError:
            raise StoreError(
                f"{folder}: does not say which model made it; name an encoder with --model, or encode again "
                "(--overwrite)"
            ) from None
        if given is not None:
            return cls.of_source(given, **spec.model_dump(include={"prompts", "encoder", "layers"}))
        return spec.beside(folder)

    def beside(self, folder: str | Path) -> ModelSpec:
        """Return the spec that :meth:`to_json` wrote for an artifact in ``folder`` with its path resolved."""
        path = os.path.normpath(Path(folder).resolve() / self.path)
        return self.model_copy(update={"path": path}) if self.path else self

    def to_json(self, folder: str | Path) -> dict[str, object]:
        """Return the spec as plain data for an artifact in ``folder``, with the path relative to it."""
        data = self.model_dump(exclude_none=True, exclude_defaults=True, include={"name", "layers"})
        for part in ("prompts", "encoder"):
            if value := getattr(self, part):
                data[part] = value.model_dump()
        if self.path:
            path = self.path
            with suppress(ValueError):  # Another drive of Windows.
                path = os.path.relpath(self.path, Path(folder).resolve())
            data["path"] = Path(path).as_posix()
        return data

    def source(self, remedy: str = "name the model with --model") -> ModelSource:
        """Find the model's files; a path is never looked up on the hub. ``remedy`` says what to do without a folder.

        Raises:
            ModelNotFoundError: No model is at the path.
        """
        if self.name:
            return resolve_hub(self.name)
        if not Path(self.path).exists():
            raise ModelNotFoundError(f"{self.path}: no such model folder or file; {remedy}")
        return resolve_model(self.path)

    @property
    def title(self) -> str:
        """The model's short name: the whole hub id, or the last part of a path."""
        return self.name or Path(self.path).name


def _without_format(spec: object) -> object:
    """Return what a store says of its model without the format of contracts, of which only the present one is left."""
    return (
        {key: value for key, value in spec.items() if (key, value) != ("contract_format", 2)}
        if isinstance(spec, dict)
        else spec
    )


def read_choices(prompts: str | None, sets: Iterable[str] | None) -> ModelSpec:
    """Read the options ``--prompts`` and ``--set`` into a spec that names no particular model yet."""
    overrides = [f"prompts={prompts}"] if prompts else []
    spec = load_config(ModelSpec, None, ['path="."', *overrides])
    # By itself, so that a mistake names the key as it was given.
    encoder = {"encoder": load_config(EncoderSettings, None, given)} if (given := list(sets or ())) else {}
    return spec.model_copy(update=encoder)


def resolve_model(name: str) -> ModelSource:
    """Resolve a model name: one of :func:`own_models`, a GGUF file, a folder, or a hub id.

    Raises:
        ModelNotFoundError: The name looks like a path, and leads to no model.
    """
    if name in own_models():
        return resolve_hub(name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(name, str(path.parent.absolute()), path.name)
    if path.is_dir():
        if (path / QUERY_TABLE_FILE).is_file():
            raise ModelNotFoundError(
                f"{name}: a query table, which only `search` and Retriever.open take; give the model it was made of"
            )
        if not (path / "config.json").is_file():
            made = (read_object(path / EXPORT_FILE) or {}).get("made")
            if isinstance(made, dict) and (runtime := made.get("runtime")):
                reads = f"`verify --backend {runtime}` reads it; elsewhere give the encoder that it was made from"
                raise ModelNotFoundError(f"{name}: an export for {runtime}; {reads}")
            raise ModelNotFoundError(f"{name}: the folder has no config.json; give a saved model or a .gguf file")
        if not (path / CONTRACT_FILE).is_file() and any((path / one).exists() for one in _COMES_WITH_CONTRACT):
            raise ModelNotFoundError(f"{name}: a saved encoder without its {CONTRACT_FILE}; restore that file")
        return ModelSource(name, str(path.absolute()))
    if path.is_file():
        raise ModelNotFoundError(f"{name}: not a model; give a folder with config.json, a .gguf file or a hub id")
    is_path = name.startswith((".", "/", "~")) or name.endswith(("/", os.sep)) or name.count("/") > 1
    if is_path or path.suffix == ".gguf" or not name.strip():
        raise ModelNotFoundError(f"{name}: no such model folder or file; check the path")
    if len(path.parts) > 1 and path.parent.is_dir():
        # Anybody could own that name on the hub.
        raise ModelNotFoundError(
            f"{name}: no such model in the folder {path.parent}; a hub id must not begin with the name of a folder here"
        )
    return resolve_hub(name)


def resolve_hub(name: str) -> ModelSource:
    """Resolve a name other than a path: a hub id, an encoder that we ship, or an LLM from its package."""
    if folder := own_models().get(name):
        return ModelSource(name, str(folder))
    model = PACKAGED.get(name)
    if model and (file := model.place(cache_folder())):
        return ModelSource(name, str(file.parent), file.name)
    hub_id = model.hub if model else name
    return ModelSource(name, hub_id, hub_id=hub_id)


def cache_folder() -> Path:
    """Return where unpacked models and file hashes are kept: ``$LLAMA2VEC_CACHE``, else ``~/.cache/llama2vec``."""
    return Path(os.environ.get("LLAMA2VEC_CACHE") or Path.home() / ".cache" / "llama2vec")


@contextmanager
def scratch_folder(parent: Path, prefix: str, mode: int = 0o700) -> Iterator[Path]:
    """Give a new folder that goes with the block; what killed processes left under this prefix goes first.

    A lock beside it tells the folders of live processes.
    """
    pattern = f"{prefix}{'[0-9a-f]' * 32}"
    for left in {*parent.glob(pattern), *(lock.with_suffix("") for lock in parent.glob(f"{pattern}.lock"))}:
        lock = Lock(left.with_suffix(".lock"))
        with suppress(OSError):  # of another user, or on a file system without locks
            if lock.acquire():
                shutil.rmtree(left, ignore_errors=True)
                lock.release()
    folder = parent / f"{prefix}{uuid.uuid4().hex}"
    lock = Lock(folder.with_suffix(".lock"))
    with suppress(OSError):
        lock.acquire()
    try:
        folder.mkdir(mode)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def weights_fingerprint(files: Iterable[Path]) -> str:
    """Return a SHA-256 over the names and the whole content of weight files.

    Hashes of files that have not changed come from the user's cache, by device, inode, size and times.
    """
    files, memory, settled = list(files), cache_folder() / "file-hashes.json", time.time() - _SETTLED_SECONDS
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    facts = [file.stat() for file in files]
    names = [f"{one.st_dev}:{one.st_ino}:{one.st_size}:{one.st_mtime_ns}:{one.st_ctime_ns}" for one in facts]
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = list(pool.map(lambda name, file: known.get(name) or file_sha256(file), names, files))
    found = zip(names, hashes, facts, strict=True)
    new = {name: value for name, value, one in found if max(one.st_mtime, one.st_ctime) < settled}
    if new.keys() - known.keys():
        # A cache that cannot be written only costs time.
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, dict(list((known | new).items())[-_REMEMBERED_HASHES:]))
    return digest([[file.name, value] for file, value in zip(files, hashes, strict=True)])


def _fault(file: Path) -> str | None:
    """Return the fault that the header of a weight file shows, or None."""
    if not file.is_file():
        return "not a regular file"  # Opening a pipe would wait for ever
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(_POINTER))
        if head == _POINTER:
            return "a Git LFS pointer instead of the weights"
        if file.suffix == ".gguf" and head[:4] != b"GGUF":
            return "not a GGUF file"
        if file.suffix != ".safetensors":
            return None
        try:
            length = struct.unpack("<Q", head[:8])[0]
            stream.seek(8)
            header = json.loads(stream.read(min(length, size)))
            ends = [facts["data_offsets"][1] for name, facts in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0) == size
        except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError, struct.error):
            whole = False
    return None if whole else "not a whole safetensors file: damaged or cut short"

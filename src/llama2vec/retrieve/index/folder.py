"""An index folder: how a store's vectors are searched, and BM25 over its texts.

index.json     kind, settings, path and hash of the store
index.faiss    for the FAISS kinds
fields.sqlite  the passages' fields, which filters read; only where passages have places or fields
bm25/          BM25 over the same texts, on request; part.json names its files and their checksums
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from llama2vec.artifact import Found, Kind, bring_back, claim, read_object
from llama2vec.engines.opening import Target
from llama2vec.errors import ConfigError, StoreError
from llama2vec.files import disk_errors, file_sha256, write_json
from llama2vec.model.source import CONTRACT_FILE, own_models
from llama2vec.retrieve.index.engine import EngineIndex
from llama2vec.retrieve.index.exact import ExactIndex, Index
from llama2vec.retrieve.index.faiss import FaissIndex, default_search, import_faiss, write_faiss_index
from llama2vec.retrieve.index.field_table import write_field_table
from llama2vec.retrieve.index.filters import PassageFields
from llama2vec.retrieve.index.lexical import Bm25Index, known_code, new_tokenizer
from llama2vec.retrieve.index.tuning import kind_for, tuned
from llama2vec.retrieve.settings import FaissSearch, IndexKind, SearchRequest
from llama2vec.retrieve.store.reader import (
    PLAN_FILE,
    STORE_FILE,
    VectorStore,
    is_intact,
    read_errors,
    store_passages,
    store_sha256,
)

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)

_FORMAT = "llama2vec-index"
MANIFEST, _FAISS, _FIELDS = "index.json", "index.faiss", "fields.sqlite"
_BM25, _PART = "bm25", "part.json"
BM25_PART = f"{_BM25}/{_PART}"


class _StorePlace(BaseModel):
    absolute: str
    relative: str
    sha256: str


class _Manifest(BaseModel):
    """Content of ``index.json``."""

    format: Literal["llama2vec-index"] = "llama2vec-index"
    version: Literal[1] = 1
    kind: IndexKind | Literal["engine"]
    store: _StorePlace
    contract_hash: str
    dimension: int
    passages: int
    faiss_sha256: str | None = None
    search: FaissSearch | None = None
    engine: Target | None = None
    fields_sha256: str | None = None


class _File(BaseModel):
    bytes: int
    sha256: str


class _Part(BaseModel):
    """Content of ``bm25/part.json``."""

    format: Literal["llama2vec-index-part"] = "llama2vec-index-part"
    version: Literal[1] = 1
    part: Literal["bm25"] = "bm25"
    store_sha256: str
    language: str
    files: dict[str, _File]


def build_index(
    store: VectorStore | str | Path,
    output: str | Path,
    *,
    kind: IndexKind | None = None,
    bm25: str | None = None,
    keeps_bm25: bool = True,
    overwrite: bool = False,
    store_place: Path | None = None,
    search: SearchRequest | None = None,
) -> list[str]:
    """Make an index over a store, or add to one; the other parts of an index stay unchanged.

    Args:
        store: A finished store or its folder; the index refers to it, so it must stay.
        output: The index folder, new or not; all changes appear at once, when they are complete.
        kind: How to search vectors; None = what fits the request, else the existing index's kind, else ``exact``. All
            others but ``faiss-flat`` are approximate.
        bm25: ISO 639 code of the language in which BM25 reads the texts; None = do not add BM25. A store without
            vectors needs it.
        keeps_bm25: Whether BM25 that the index has stays where none is asked for.
        overwrite: Make the requested parts again. An index over another store is replaced as a whole.
        store_place: Where the store will lie when it and the index have moved together; None = it stays.
        search: What is asked of the vectors' index besides its kind; None = as the kind usually is.

    Returns:
        The parts that were made: the kind of vector index, ``bm25``; empty if the index had them already.

    Raises:
        OutputExistsError: A requested part has other settings, or the folder holds an index of another store, or else.
        StoreError: The store is not finished or lacks needed vectors, or no settings reach the recall.
        MissingDependencyError: FAISS, bm25s or PyStemmer is not installed.
    """
    store, output = store if isinstance(store, VectorStore) else VectorStore.open(store), Path(output)
    bm25 = _check_request(kind, bm25, search := search or SearchRequest())
    bring_back(output)
    found, sha256 = _read_index(output), store_sha256(store)
    same_store = found is not None and found.plan.get("store") == sha256
    there: Mapping[str, Any] = found.plan["settings"] if found and same_store else {}
    wanted = _wanted(there if keeps_bm25 else {**there, "bm25": None}, kind or _kind_for(store, search), bm25, search)
    _check_vectors(store, wanted["kind"], wanted["bm25"])
    plan, adds = {"settings": wanted, "store": sha256}, wanted != there == wanted | {"bm25": None}
    with claim(output, INDEX, plan, overwrite=overwrite, extend=adds, inputs=[store.path]) as work:
        if work.is_finished:
            return []
        anew = not same_store or found is None or not found.finished
        differs = {name for name in wanted if not anew and wanted[name] != there[name]}
        makes_vectors = anew or bool(differs - {"bm25"}) or (overwrite and (kind is not None or not bm25))
        makes_bm25 = wanted["bm25"] and (anew or "bm25" in differs or (overwrite and bm25))
        replaced = ({MANIFEST, _FAISS, _FIELDS} if makes_vectors else set()) | ({_BM25} if makes_bm25 else set())
        replaced |= set() if same_store and (keeps_bm25 or bm25) else {_BM25}
        entries = os.listdir(output) if output.is_dir() else []
        folder = work.begin(keep=[name for name in entries if name not in replaced and not name.startswith(".lock-")])
        with disk_errors(output):
            if makes_vectors:
                _write_vectors(folder, output, store, plan, store_place or store.path.resolve())
            if makes_bm25:
                _write_bm25(folder / _BM25, store, plan)
        work.finish()
    return [wanted["kind"]] * (makes_vectors and store.has_vectors) + ([_BM25] if makes_bm25 else [])


@read_errors()
def open_index(path: str | Path) -> Index:
    """Open an index that :func:`build_index` wrote; a store's folder opens as an exact index.

    Raises:
        StoreError: The index does not exist, its file is damaged, or its store is gone or was replaced.
    """
    path = check_index(path)
    if (path / STORE_FILE).exists() or (path / PLAN_FILE).exists():
        return ExactIndex(VectorStore.open(path))
    manifest = _validated(_Manifest, path / MANIFEST, "build the index again")
    store = _find_store(path, manifest.store)
    if manifest.kind == "exact":
        return ExactIndex(store)
    if manifest.engine is not None:
        return EngineIndex(store, manifest.engine.open_existing(), manifest.store.sha256)
    file = path / _FAISS
    if not is_intact(file, manifest.faiss_sha256 or ""):
        raise StoreError(f"{file} is missing or damaged; build the index again")
    return FaissIndex(store, manifest.kind, file, manifest.search)


@read_errors()
def open_bm25(path: str | Path, store: VectorStore) -> Bm25Index | None:
    """Open the BM25 index of an index folder; None if it has none. Each search checks its files, as the store does.

    Raises:
        StoreError: It was made from another store, or a file is missing or damaged.
        MissingDependencyError: bm25s or PyStemmer is not installed.
    """
    folder = index_folder(path) / _BM25
    if not folder.is_dir():
        return None
    again = f"add it again with `llama2vec index {store.path} --output {folder.parent} --bm25 --overwrite`"
    part = _validated(_Part, folder / _PART, again)
    if part.store_sha256 != store_sha256(store):
        raise StoreError(f"{folder} was made from another store than {store.path}; {again}")

    @read_errors()
    def check() -> None:
        for name, expected in part.files.items():
            if not is_intact(folder / name, expected.sha256):
                raise StoreError(f"{folder / name} is missing, damaged, or was replaced after it was opened; {again}")

    return Bm25Index.load(folder, store.ids, check)


@read_errors()
def open_fields(path: str | Path, store: VectorStore) -> PassageFields:
    """Open the fields of an index's passages; the first filter reads the table of the index, or makes one in memory."""
    folder = index_folder(path)
    content = read_object(folder / MANIFEST)
    sha256 = content.get("fields_sha256") if content else None
    if not isinstance(sha256, str):
        return PassageFields(lambda: store_passages(store))
    again = f"build the index again with `llama2vec index {store.path} --output {folder} --overwrite`"
    return PassageFields(lambda: store_passages(store), folder / _FIELDS, sha256, again)


def search_facts(path: str | Path) -> str:
    """Return in a line how a tuned or compressed FAISS index is searched; "" for any other index."""
    content = read_object(index_folder(path) / MANIFEST)
    if not content or not content.get("search"):  # Not opened: an engine may let in only the program that searches it
        return ""
    index = open_index(path)
    return index.facts() if isinstance(index, FaissIndex) and index.settings != FaissSearch() else ""


@read_errors()
def check_index(path: str | Path) -> Path:
    """Return the folder that :func:`open_index` reads; a StoreError if it holds neither an index nor a store."""
    bring_back(Path(path))
    folder = index_folder(path)
    if not any((folder / file).exists() for file in (MANIFEST, STORE_FILE, PLAN_FILE)):
        if str(path) in own_models() or all((folder / file).is_file() for file in (CONTRACT_FILE, "config.json")):
            raise StoreError(f"no index at {path}: it is an encoder, which `llama2vec serve --model {path}` serves")
        read_object(folder / MANIFEST)  # Raises an error where this user may not look into the folder
        raise StoreError(
            f"no index at {folder}; make one of a folder of documents with `llama2vec sync FOLDER {folder}`, "
            "of a vector store with `llama2vec index`, or ask a folder with `llama2vec ask`"
        )
    return folder


def index_folder(path: str | Path) -> Path:
    """Return where the index lies in a folder that holds store and index side by side; else the path itself."""
    path = Path(path)
    return path / "index" if not (path / MANIFEST).exists() and (path / "index" / MANIFEST).is_file() else path


def _kind_for(store: VectorStore, search: SearchRequest) -> str | None:
    """Return the kind of index that a request implies, None = it implies none."""
    if search.engine is not None:
        return "engine"
    return kind_for(len(store)) if search.recall is not None else None


def _wanted(there: Mapping[str, Any], kind: str | None, bm25: str | None, search: SearchRequest) -> dict[str, Any]:
    """Return the settings of an index: what is there, with what was asked for on top."""
    wanted = {"kind": kind or there.get("kind", "exact"), "bm25": bm25 or there.get("bm25")}
    asked = search.model_dump(exclude_none=True)
    if search.engine is not None:
        asked["engine"] = asdict(search.engine.settled())
    if not kind and not asked:
        return {**wanted, "search": there.get("search")}
    if wanted["kind"] == "exact":
        if search.dims is not None:
            raise ConfigError("--dims: an exact index compares all dimensions; choose one of the FAISS kinds")
        asked.pop("recall", None)
    return {**wanted, "search": asked or None}


def _check_request(kind: str | None, language: str | None, search: SearchRequest) -> str | None:
    """Refuse an impossible request before reading anything; return the language under the code that indexes have."""
    if search.recall is not None and not 0 < search.recall <= 1:
        raise ConfigError(f"--recall {search.recall}: give a share above 0 and up to 1, such as 0.98")
    if search.engine is not None and (kind or search.dims or search.recall):
        raise ConfigError("--engine: the engine has an index of its own; leave out --kind, --dims and --recall")
    if kind is not None and kind not in get_args(IndexKind):
        raise ConfigError(f"unknown index kind {kind!r}; choose one of {', '.join(get_args(IndexKind))}")
    if kind not in (None, "exact"):
        import_faiss()
    if language is not None:
        new_tokenizer(language)
    return language and known_code(language)


def _check_vectors(store: VectorStore, kind: str, bm25: str | None) -> None:
    """Refuse what a store without vectors cannot give."""
    if not store.has_vectors and (kind != "exact" or bm25 is None):
        wants = f"{kind} needs them" if kind != "exact" else "BM25 alone can search it: pass --bm25"
        raise StoreError(f"{store.path} has no vectors, and {wants}; add vectors with {store.how_to_add_vectors}")


def _read_index(folder: Path) -> Found | None:
    """Return the plan of the index in a folder, or None."""
    content = read_object(folder / MANIFEST)
    if content is None or content.get("format") != _FORMAT:
        return None
    try:
        manifest = _Manifest.model_validate(content)
    except ValidationError:
        return Found({}, finished=True)
    try:
        part = _Part.model_validate(read_object(folder / _BM25 / _PART))
    except ValidationError:
        part = None
    sizes = {folder / _BM25 / name: file.bytes for name, file in part.files.items()} if part else {}
    is_whole = manifest.kind in ("exact", "engine") or (folder / _FAISS).is_file()
    is_whole = is_whole and (manifest.fields_sha256 is None or (folder / _FIELDS).is_file())
    is_whole = is_whole and all(file.is_file() and file.stat().st_size == size for file, size in sizes.items())
    asked = manifest.search.model_dump(include={"dims", "recall"}, exclude_none=True) if manifest.search else {}
    asked |= {"engine": asdict(manifest.engine)} if manifest.engine else {}
    # Words that are counted otherwise cannot be searched: to whoever asks for BM25, it is missing.
    language = part.language if part and Bm25Index.is_current(folder / _BM25) else None
    settings = {"kind": manifest.kind, "bm25": language, "search": asked or None}
    return Found({"settings": settings, "store": manifest.store.sha256}, is_whole, worth_keeping=is_whole)


INDEX = Kind(
    "an index",
    _read_index,
    resumable=False,
    entries=(MANIFEST, _FAISS, _FIELDS, f"{_BM25}/*.json", f"{_BM25}/*.npy"),
)


def _write_vectors(folder: Path, output: Path, store: VectorStore, plan: Mapping[str, Any], place: Path) -> None:
    """Write ``index.json``, ``index.faiss`` for the FAISS kinds, and the table of fields where there are any."""
    kind, sha256, fields, search = plan["settings"]["kind"], None, None, None
    if store.has_fields:
        with closing(write_field_table(store_passages(store), folder / _FIELDS)):
            pass
        fields = _flushed(folder / _FIELDS).sha256
    asked, engine = plan["settings"]["search"] or {}, None
    if kind == "engine":
        engine = Target(**asked["engine"])
        # Connects, and refuses a collection that does not equal the store.
        EngineIndex(store, engine.open_existing(), plan["store"])
    elif kind != "exact":
        search = _write_faiss(folder / _FAISS, store, kind, asked)
        sha256 = _flushed(folder / _FAISS).sha256
    relative = os.path.relpath(store.path.resolve(), output.resolve())
    manifest = _Manifest(
        kind=kind,
        store=_StorePlace(absolute=str(place), relative=relative, sha256=plan["store"]),
        contract_hash=store.contract_hash,
        dimension=store.dimension,
        passages=len(store),
        faiss_sha256=sha256,
        search=search,
        engine=engine,
        fields_sha256=fields,
    )
    write_json(folder / MANIFEST, manifest.model_dump(exclude_none=True))


def _write_faiss(file: Path, store: VectorStore, kind: IndexKind, asked: Mapping[str, Any]) -> FaissSearch | None:
    """Write a FAISS index; return how it is searched, None = in the usual way."""
    dims, recall = asked.get("dims"), asked.get("recall")
    write_faiss_index(store, kind, file, dims)
    search = default_search(kind, dims)
    if recall is not None:
        search = tuned(FaissIndex(store, kind, file, search), recall)
    return None if search == FaissSearch() else search


def _write_bm25(folder: Path, store: VectorStore, plan: Mapping[str, Any]) -> None:
    """Write BM25 over a store's texts, and ``part.json``."""
    folder.mkdir()
    language = known_code(plan["settings"]["bm25"])
    Bm25Index.build(store_passages(store), language=language).save(folder)
    files = {file.name: _flushed(file) for file in sorted(folder.iterdir())}
    write_json(folder / _PART, _Part(store_sha256=plan["store"], language=language, files=files).model_dump())


def _validated(model: type[ModelT], file: Path, remedy: str) -> ModelT:
    """Read and validate a JSON file."""
    content = read_object(file)
    if content is None:
        raise StoreError(f"{file} cannot be read as a JSON object; {remedy}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise StoreError(f"{file}: {where}: {fault['msg'].lower()}; {remedy}") from None


def _find_store(path: Path, place: _StorePlace) -> VectorStore:
    """Open the store of an index, at its path relative to the index, else at its former absolute path."""
    places = (Path(os.path.normpath(path.resolve() / place.relative)), Path(place.absolute))
    found = next((folder for folder in places if (folder / STORE_FILE).exists()), None)
    if found is None:
        raise StoreError(
            f"{path} belongs to the store {place.absolute}, which is gone; put it back or build the index again"
        )
    if file_sha256(found / STORE_FILE) != place.sha256:
        raise StoreError(f"{path} was built from other vectors than {found} holds now; build the index again")
    return VectorStore.open(found)


def _flushed(file: Path) -> _File:
    """Write a file through to the disk; return its size and checksum."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    return _File(bytes=file.stat().st_size, sha256=file_sha256(file))

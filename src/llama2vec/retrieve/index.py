"""Find the nearest vectors of a store: exactly, or approximately through FAISS.

An index folder holds ``index.json`` (kind, settings, where the store is and what it must be) and, for the FAISS
kinds, ``index.faiss``. Similarity is the inner product, which is the cosine for the normalized vectors of a store.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from llama2vec.errors import ConfigError, MissingDependencyError, OutputExistsError, StoreError
from llama2vec.files import file_sha256, write_atomic
from llama2vec.progress import ProgressReporter
from llama2vec.retrieve.claims import host_name, is_running
from llama2vec.retrieve.nearest import Nearest, Rows, Scores, block_rows
from llama2vec.retrieve.store import Vectors, VectorStore

logger = logging.getLogger(__name__)

IndexKind = Literal["exact", "faiss-flat", "faiss-hnsw", "faiss-ivfpq"]

INDEX_PARTS = ("bm25", "sparse")
"""Folders that an index may carry beside its vectors (:mod:`llama2vec.retrieve.parts`)."""

_FORMAT = "llama2vec-index"
_FORMAT_VERSION = 1
_TRAIN_PER_CENTROID = 39
"""Fewest training vectors per centroid that FAISS finds enough (ClusteringParameters.min_points_per_centroid)."""
_PQ_BITS = 8


class Index(Protocol):
    """What :func:`llama2vec.retrieve.search.search` needs of an index."""

    @property
    def kind(self) -> str:
        """How it searches."""
        ...

    @property
    def store(self) -> VectorStore:
        """The vectors and passages it finds."""
        ...

    @property
    def contract_hash(self) -> str:
        """How the vectors were made; queries must be encoded under the same contract."""
        ...

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """Return the nearest passages of each query, best first.

        Args:
            vectors: [Q, D] float32 queries.
            depth: K, passages per query.

        Returns:
            [Q, K] float32 scores and [Q, K] int64 rows of the store. Equal scores are in row order. Where there are
            fewer than K, the rest is filled with score -inf and row -1.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnnSettings:
    """Settings of the approximate kinds; each kind reads its own.

    Attributes:
        hnsw_m: Links per vector (arXiv 1603.09320, M).
        hnsw_ef_construction: Candidates looked at while building.
        hnsw_ef_search: Candidates looked at while searching; at least the depth is used.
        ivf_nlist: Cells; None takes 4·√N, or fewer where the corpus is too small to train so many.
        ivf_nprobe: Cells looked at while searching.
        pq_m: Bytes per vector; must divide D; None takes the largest divisor up to 64.
        training_passages: Sample that cells and codes are trained on; None takes 64 per centroid.
        seed: Of the sample.
    """

    hnsw_m: int = 32
    hnsw_ef_construction: int = 200
    hnsw_ef_search: int = 128
    ivf_nlist: int | None = None
    ivf_nprobe: int = 32
    pq_m: int | None = None
    training_passages: int | None = None
    seed: int = 0


class ExactIndex:
    """Compare every query with every vector, block by block; memory does not grow with the corpus."""

    kind = "exact"

    def __init__(self, store: VectorStore) -> None:
        self.store = store

    @property
    def contract_hash(self) -> str:
        """Contract of the store."""
        return self.store.contract_hash

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """See :meth:`Index.search`."""
        found = Nearest(_checked_queries(vectors, depth, self.store), depth)
        for first_row, block in _blocks(self.store):
            found.add(block, first_row)
        return found.best()


class FaissIndex:
    """Search an index that FAISS holds in memory."""

    def __init__(self, store: VectorStore, kind: str, faiss_index: Any, settings: AnnSettings) -> None:
        self.store = store
        self.kind = kind
        self._faiss_index = faiss_index
        self._settings = settings

    @property
    def contract_hash(self) -> str:
        """Contract of the store."""
        return self.store.contract_hash

    def search(self, vectors: Vectors, depth: int) -> tuple[Scores, Rows]:
        """See :meth:`Index.search`."""
        queries = _checked_queries(vectors, depth, self.store)
        faiss = _import_faiss()
        parameters = None
        if self.kind == "faiss-hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(self._settings.hnsw_ef_search, depth))
        elif self.kind == "faiss-ivfpq":
            parameters = faiss.SearchParametersIVF(nprobe=self._settings.ivf_nprobe)
        if not len(queries):
            return np.empty((0, depth), dtype=np.float32), np.empty((0, depth), dtype=np.int64)
        scores, rows = self._faiss_index.search(queries, depth, params=parameters)
        scores = np.where(rows < 0, np.float32(-np.inf), scores)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def build_index(
    store: VectorStore | str | Path,
    output: str | Path,
    *,
    kind: IndexKind = "exact",
    settings: AnnSettings | None = None,
    overwrite: bool = False,
) -> Index:
    """Build an index over a store and open it.

    Args:
        store: A finished store or its folder; the index refers to it, so it must stay.
        output: The folder to write; appears only when it is complete.
        kind: ``exact`` needs no file and no FAISS; ``faiss-hnsw`` and ``faiss-ivfpq`` are approximate.
        settings: Of the approximate kinds.
        overwrite: Replace an index; its ``bm25`` and ``sparse`` stay where the store is the same. Never touches a
            folder that is no index.

    Raises:
        OutputExistsError: the folder is there.
        StoreError: no finished store, or too few passages to train on.
        MissingDependencyError: FAISS is not installed.
    """
    output, settings = Path(output), settings or AnnSettings()
    if kind not in get_args(IndexKind):
        raise ConfigError(f"there is no index kind {kind!r}; choose one of {', '.join(get_args(IndexKind))}")
    store = store if isinstance(store, VectorStore) else VectorStore.open(store)
    _refuse_existing(output, overwrite=overwrite)
    store_sha256 = file_sha256(store.path / "store.json")
    with replaced_folder(output, keep=_parts_that_stay(output, store_sha256)) as folder:
        content: dict[str, object] = {
            "format": _FORMAT,
            "version": _FORMAT_VERSION,
            "kind": kind,
            "settings": asdict(settings),
            "store": {
                "absolute": str(store.path.resolve()),
                "relative": os.path.relpath(store.path.resolve(), output.resolve()),
                "sha256": store_sha256,
            },
            "contract_hash": store.contract_hash,
            "dimension": store.dimension,
            "passages": len(store),
        }
        if kind != "exact":
            faiss = _import_faiss()
            faiss.write_index(_fill(_new_faiss_index(store, kind, settings), store), str(folder / "index.faiss"))
            content["faiss_sha256"] = file_sha256(folder / "index.faiss")
        write_atomic(folder / "index.json", (json.dumps(content, indent=1) + "\n").encode())
    return open_index(output)


def open_index(path: str | Path) -> Index:
    """Open an index that :func:`build_index` wrote; a store's folder opens as an exact index.

    Raises:
        StoreError: there is no index, its file is damaged, or its store is gone or another one now.
    """
    path = Path(path)
    if (path / "store.json").exists():
        return ExactIndex(VectorStore.open(path))
    try:
        content = json.loads((path / "index.json").read_bytes())
    except OSError as error:
        raise StoreError(f"there is no index at {path}; make one with `llama2vec index`") from error
    except ValueError as error:
        raise StoreError(f"{path / 'index.json'} is not readable as JSON; build the index again") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _FORMAT_VERSION):
        raise StoreError(f"{path} is not an index that this llama2vec reads; build it again")
    store = _find_store(path, content)
    if content["kind"] == "exact":
        return ExactIndex(store)
    file = path / "index.faiss"
    if not file.exists() or file_sha256(file) != content["faiss_sha256"]:
        raise StoreError(f"{file} is missing or damaged; build the index again")
    return FaissIndex(store, content["kind"], _import_faiss().read_index(str(file)), AnnSettings(**content["settings"]))


def _blocks(store: VectorStore) -> Iterator[tuple[int, npt.NDArray[np.floating[Any]]]]:
    """Yield (first row, [n, D] vectors as they are stored) in row order, never more than a block."""
    size = block_rows(store.dimension)
    for first_row, vectors in store.shards():
        for begin in range(0, len(vectors), size):
            yield first_row + begin, vectors[begin : begin + size]


def _checked_queries(vectors: Vectors, depth: int, store: VectorStore) -> Vectors:
    if depth < 1:
        raise ConfigError(f"the depth must be at least 1, not {depth}")
    if vectors.ndim != 2 or vectors.shape[1] != store.dimension:
        raise StoreError(
            f"queries of shape {vectors.shape} do not fit the vectors of {store.path}, which have width "
            f"{store.dimension}; encode them with the model that made the store"
        )
    # Nothing is nearer than NaN: such a query would find nothing, and say so to nobody.
    faulty = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(faulty):
        raise StoreError(
            f"the vector of query {faulty[0] + 1} of {len(vectors)} is not finite; "
            "check the model, or encode in float32"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _new_faiss_index(store: VectorStore, kind: str, settings: AnnSettings) -> Any:
    """Return an empty FAISS index, trained where its kind needs it."""
    faiss = _import_faiss()
    if kind == "faiss-flat":
        return faiss.IndexFlatIP(store.dimension)
    if kind == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(store.dimension, settings.hnsw_m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.hnsw_ef_construction
        return index
    nlist, pq_m, sample = _ivfpq_plan(store, settings)
    logger.info("training %d cells and %d codes on %d of %d passages", nlist, pq_m, sample, len(store))
    rows = np.random.default_rng(settings.seed).choice(len(store), size=sample, replace=False)
    cells = faiss.IndexFlatIP(store.dimension)
    index = faiss.IndexIVFPQ(cells, store.dimension, nlist, pq_m, _PQ_BITS, faiss.METRIC_INNER_PRODUCT)
    index.train(store.vectors(np.sort(rows)))
    return index


def _ivfpq_plan(store: VectorStore, settings: AnnSettings) -> tuple[int, int, int]:
    """Return the number of cells, the bytes per vector and the size of the training sample."""
    passages, width = len(store), store.dimension
    most_cells = max(1, passages // _TRAIN_PER_CENTROID)
    nlist = settings.ivf_nlist or min(round(4 * passages**0.5), most_cells)
    centroids = max(nlist, 2**_PQ_BITS)
    needed = _TRAIN_PER_CENTROID * centroids
    sample = min(passages, settings.training_passages or 64 * centroids)
    if sample < needed:
        raise StoreError(
            f"{store.path}: faiss-ivfpq with {nlist} cells needs {needed:,} passages to train on and has {sample:,}; "
            "use exact or faiss-hnsw"
        )
    pq_m = settings.pq_m or max(divisor for divisor in range(1, min(width, 64) + 1) if width % divisor == 0)
    if width % pq_m:
        raise ConfigError(f"pq_m = {pq_m} does not divide the width {width} of {store.path}; choose a divisor")
    return nlist, pq_m, sample


def _fill(index: Any, store: VectorStore) -> Any:
    with ProgressReporter("indexing", "passages") as progress:
        progress.start(len(store))
        for _, vectors in _blocks(store):
            index.add(np.ascontiguousarray(vectors, dtype=np.float32))
            progress.advance(len(vectors))
    return index


def _find_store(path: Path, content: Mapping[str, Any]) -> VectorStore:
    """Open the store of an index: where it lies relative to the index, else where it lay before."""
    places = (Path(os.path.normpath(path.resolve() / content["store"]["relative"])), Path(content["store"]["absolute"]))
    place = next((place for place in places if (place / "store.json").exists()), None)
    if place is None:
        raise StoreError(
            f"{path} belongs to the store {places[1]}, which is gone; put it back or build the index again"
        )
    if file_sha256(place / "store.json") != content["store"]["sha256"]:
        raise StoreError(f"{path} was built from other vectors than {place} holds now; build the index again")
    return VectorStore.open(place)


def _refuse_existing(output: Path, *, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "index.json").is_file():
        raise OutputExistsError(f"{output} exists and is not an index; choose another folder")
    if not overwrite:
        raise OutputExistsError(f"{output} exists; choose another folder or pass --overwrite")


def _parts_that_stay(output: Path, store_sha256: str) -> tuple[str, ...]:
    """Return what an index carries beside its vectors, where it is over the same store."""
    try:
        content = json.loads((output / "index.json").read_bytes())
        same = content["store"]["sha256"] == store_sha256
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return INDEX_PARTS if same else ()


@contextmanager
def replaced_folder(output: Path, keep: Sequence[str] = ()) -> Iterator[Path]:
    """Give a new folder to fill; it takes the place of ``output`` when all went well, else it is removed.

    Args:
        output: The folder.
        keep: Entries of the old folder that move into the new one.

    Raises:
        StoreError: The folder cannot be written.
    """
    writer = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    new, old = (output.with_name(f".{output.name}.{word}-{writer}") for word in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if output.exists():
            output.rename(old)
        try:
            new.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
        for name in keep:
            if (old / name).exists():
                (old / name).rename(output / name)
        shutil.rmtree(old, ignore_errors=True)
        _clear_leftovers(output)
    except (OSError, RuntimeError) as error:  # FAISS tells of a full disk with a RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"cannot write the index {output} ({reason}); put that right and try again") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _clear_leftovers(output: Path) -> None:
    """Remove what killed processes of this machine left beside the folder, now that a whole one is there."""
    if os.name != "posix":
        return
    for path in output.parent.glob(f".{glob.escape(output.name)}.*-{_machine()}-*-*"):
        pid = path.name.split("-")[-2]
        if pid.isdecimal() and not is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _machine() -> str:
    return hashlib.sha256(host_name().encode()).hexdigest()[:8]


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError("FAISS is not installed; run: pip install 'llama2vec[search]'") from error
    return faiss

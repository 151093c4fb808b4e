"""An inverted index for sparse vectors: per word the passages that have it, on disk, memory-mapped.

A corpus is read batch by batch into ``.sparse.building/`` beside the part; a killed build goes on there. Then the
batches are turned over, one at a time, into three files::

    starts.npy     [W + 1] int64: where the postings of each word begin
    rows.npy       [P] int32: passages, ascending within each word
    weights.npy    [P] float32: their weights
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llama2vec.errors import ConfigError, MissingDependencyError, StoreError
from llama2vec.files import write_atomic, write_json
from llama2vec.progress import ProgressReporter
from llama2vec.retrieve.nearest import Rows, Scores, best_rows
from llama2vec.retrieve.parts import new_part, open_part, store_sha256
from llama2vec.retrieve.store import VectorStore

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_BATCH_PASSAGES = 512
"""Passages that a killed build may have to read again."""


class SparseEncoder(Protocol):
    """What the sparse index needs of a model, as :class:`llama2vec.explain.vocabulary.VocabularyView` gives it."""

    @property
    def hash(self) -> str:
        """Hash of everything that decides what the vectors are."""
        ...

    @property
    def contract_hash(self) -> str:
        """Hash of everything that decides what the model's dense vectors are."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """What each of the W columns stands for."""
        ...

    @property
    def language(self) -> str:
        """Of the stop words that are left out, as an ISO 639-1 code."""
        ...

    def sparse(self, texts: Sequence[str], side: Literal["query", "passage"], /) -> csr_array:
        """Return [N, W] float32 with no entry below 0; batches internally."""
        ...


class SparseIndex:
    """The postings of a corpus; a passage's score is the dot product of its vector and the query's."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
        manifest: dict[str, Any],
    ) -> None:
        self._starts, self._rows, self._weights = starts, rows, weights
        self.passages: int = manifest["passages"]
        self.hash: str = manifest["sparse_hash"]
        self.language: str = manifest["language"]

    @classmethod
    def build(cls, store: VectorStore, encoder: SparseEncoder, folder: Path) -> SparseIndex:
        """Read a store's texts as words, write the inverted index and open it; a killed build goes on.

        Args:
            store: A finished store, encoded by the same model.
            encoder: Of the words.
            folder: ``sparse`` in the index folder; replaced when the new one is complete.

        Raises:
            StoreError: The encoder has another contract than the store, or the folder cannot be written.
        """
        if encoder.contract_hash != store.contract_hash:
            raise StoreError(
                f"{store.path} was encoded under contract {store.contract_hash[:12]} and the model of the words has "
                f"{encoder.contract_hash[:12]}; give the model that encoded it"
            )
        building = folder.with_name(f".{folder.name}.building")
        facts = {
            "passages": len(store),
            "words": len(encoder.words),
            "sparse_hash": encoder.hash,
            "language": encoder.language,
        }
        try:
            _begin(building, {**facts, "store_sha256": store_sha256(store), "batch_passages": _BATCH_PASSAGES})
            batches = _read_batches(store, encoder, building)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"cannot write {building} ({reason}); put that right and run the same again") from error
        with new_part(folder, store, facts) as new:
            _turn_over(batches, len(encoder.words), new)
        shutil.rmtree(building, ignore_errors=True)
        return cls.open(folder, store)

    @classmethod
    def open(cls, folder: Path, store: VectorStore) -> SparseIndex:
        """Open what :meth:`build` wrote; the postings are read from disk when asked for.

        Raises:
            StoreError: It was made of another store, or a file is missing or damaged.
        """
        manifest = open_part(folder, store)
        starts = np.load(folder / "starts.npy")
        if not starts[-1]:
            return cls(starts, np.empty(0, np.int32), np.empty(0, np.float32), manifest)
        rows, weights = (np.load(folder / name, mmap_mode="r") for name in ("rows.npy", "weights.npy"))
        return cls(starts, rows, weights, manifest)

    def check_encoder(self, encoder: SparseEncoder) -> None:
        """Make sure that queries become the words that the passages became.

        Raises:
            StoreError: The encoder gives other sparse vectors than the index was built with.
        """
        if encoder.hash != self.hash:
            raise StoreError(
                f"the sparse index was built under {self.hash[:12]} and the query model gives {encoder.hash[:12]}; "
                "search with the model that built it, or add it again with `llama2vec index … --sparse --overwrite`"
            )

    def search(self, queries: csr_array, depth: int) -> tuple[Scores, Rows]:
        """Return the passages with the largest dot products, best first.

        Args:
            queries: [Q, W] with no entry below 0.
            depth: K, passages per query.

        Returns:
            [Q, K] float32 scores and [Q, K] int64 rows of the store. Equal scores are in row order. Where fewer than K
            passages share a word with the query, the rest is filled with score -inf and row -1.
        """
        if depth < 1:
            raise ConfigError(f"the depth must be at least 1, not {depth}")
        scores = np.full((queries.shape[0], depth), -np.inf, dtype=np.float32)
        rows = np.full((queries.shape[0], depth), -1, dtype=np.int64)
        for query, (begin, end) in enumerate(zip(queries.indptr, queries.indptr[1:], strict=False)):
            all_scores = self._scores(queries.indices[begin:end], queries.data[begin:end])
            found = np.flatnonzero(all_scores > 0)
            best = found[best_rows(all_scores[found], depth)]
            scores[query, : len(best)], rows[query, : len(best)] = all_scores[best], best
        return scores, rows

    def _scores(self, words: npt.NDArray[np.integer[Any]], weights: npt.NDArray[np.float32]) -> Scores:
        """Return the dot products [N] of all passages with one query; only its words' postings are read."""
        scores = np.zeros(self.passages, dtype=np.float32)
        for word, weight in zip(words, weights, strict=True):
            here = slice(self._starts[word], self._starts[word + 1])
            # A word names each passage once, so no sum is lost.
            scores[self._rows[here]] += weight * self._weights[here]
        return scores


def _begin(building: Path, plan: dict[str, object]) -> None:
    """Lay down what is being built; what was begun under another plan is deleted."""
    try:
        same = json.loads((building / "plan.json").read_bytes()) == plan
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        write_json(building / "plan.json", plan)


def _read_batches(store: VectorStore, encoder: SparseEncoder, building: Path) -> list[Path]:
    """Write the sparse vectors of each batch of passages that is not there yet; return all batches in row order."""
    begins = range(0, len(store), _BATCH_PASSAGES)
    files = [building / f"{begin:012d}.npz" for begin in begins]
    sizes = [min(_BATCH_PASSAGES, len(store) - begin) for begin in begins]
    done = sum(size for size, file in zip(sizes, files, strict=True) if file.exists())
    with ProgressReporter("reading words", "passages") as progress:
        progress.start(len(store), completed=done)
        for begin, size, file in zip(begins, sizes, files, strict=True):
            if file.exists():
                continue
            passages = store.passages(range(begin, begin + size))
            content = io.BytesIO()
            _scipy_sparse().save_npz(content, encoder.sparse([passage.full_text for passage in passages], "passage"))
            write_atomic(file, content.getvalue())
            progress.advance(size)
    return files


def _turn_over(batches: Sequence[Path], words: int, folder: Path) -> None:
    """Write postings by word from vectors by passage; no more than one batch is in memory."""
    sparse = _scipy_sparse()
    counts = np.zeros(words, dtype=np.int64)
    for batch in batches:
        counts += np.bincount(sparse.load_npz(batch).indices, minlength=words)
    starts = np.concatenate([[0], np.cumsum(counts)])
    np.save(folder / "starts.npy", starts)
    if not starts[-1]:
        return
    shape = (int(starts[-1]),)
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.int32, shape)
    weights = np.lib.format.open_memmap(folder / "weights.npy", "w+", np.float32, shape)
    free, first_row = starts[:-1].copy(), 0
    for batch in batches:
        by_word = sparse.load_npz(batch).tocsc()
        by_word.sort_indices()
        lengths = np.diff(by_word.indptr)
        places = np.arange(by_word.nnz) + np.repeat(free - by_word.indptr[:-1], lengths)
        rows[places] = by_word.indices + first_row
        weights[places] = by_word.data
        free += lengths
        first_row += by_word.shape[0]
    rows.flush()
    weights.flush()


def _scipy_sparse() -> Any:
    try:
        import scipy.sparse
    except ImportError as error:
        raise MissingDependencyError("sparse search needs scipy; pip install 'llama2vec[search]'") from error
    return scipy.sparse

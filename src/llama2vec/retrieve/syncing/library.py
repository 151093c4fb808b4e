"""Library, an index that follows a folder: only what changed is read and encoded, and the state changes in one step.

INDEX/documents.json    what is known of every file (:mod:`inventory`)
INDEX/store/            vectors and passages (:mod:`store`), sorted by path, then by place in the file
INDEX/index/            the index over them (:mod:`index`)

A sync writes all of it again in ``.new-INDEX``, with the vectors of every text that the present store has, and lets the
two trade places. New vectors are written down in ``.vectors-INDEX`` as they are made, so that a killed sync resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from llama2vec.artifact import Work, claim, find, new_path
from llama2vec.data.corpus.document_ids import why_numbered
from llama2vec.data.documents.folder import ReadingReport, Skipped
from llama2vec.errors import CorruptShardError, EmptyCorpusError, OutputExistsError, StoreError
from llama2vec.files import check_inputs, remove
from llama2vec.manifest import digest
from llama2vec.model.source import cache_folder
from llama2vec.records import Passage, VectorFormat
from llama2vec.retrieve.index.field_table import TABLE_VERSION
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import words_version
from llama2vec.retrieve.settings import LibrarySettings
from llama2vec.retrieve.store.journal import Journal, kept_journals, remove_journals
from llama2vec.retrieve.store.reader import PassageEncoder, Vectors, VectorStore, store_passages
from llama2vec.retrieve.store.reuse import KnownVectors
from llama2vec.retrieve.store.writer import warn_of_cut_passages, write_store
from llama2vec.retrieve.syncing.changes import Changes, Counts
from llama2vec.retrieve.syncing.folder_source import FolderSource
from llama2vec.retrieve.syncing.inventory import (
    INDEX_FOLDER,
    INVENTORY_FILE,
    LIBRARY,
    STORE_FOLDER,
    FileRecord,
    Inventory,
)
from llama2vec.retrieve.syncing.removals import rows_of, without
from llama2vec.terminal import printable_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did."""

    passages: int  # In the index now
    has_vectors: bool = False
    encoded: int = 0  # Texts that the model read
    is_new: bool = True  # Whether the index was written; otherwise nothing had changed
    counts: Counts = field(default_factory=Counts)
    files: tuple[FileRecord, ...] = ()

    @property
    def reading(self) -> ReadingReport:
        """Which files give passages, and which do not or only in part, with the reasons."""
        partly = [Skipped(record.path, problem) for record in self.files for problem in record.problems]
        skipped = [Skipped(record.path, record.skipped) for record in self.files if record.skipped]
        noted = [
            Skipped(document, why_numbered(number))
            for record in self.files
            for document, number in record.numbers.items()
        ]
        read = sum(not record.skipped for record in self.files)
        return ReadingReport(read, read, partly, skipped, noted)


def index_in_cache(folder: str | Path, model: str) -> Path:
    """Return where the user's cache keeps the index of a folder that was made with a model."""
    whole = Path(folder).resolve()
    return cache_folder() / "indexes" / f"{whole.name or 'root'}-{digest([str(whole), model])[:12]}"


class Library:
    """An index folder that follows a folder of documents."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def inventory(self) -> Inventory:
        """What the index holds of each file; a StoreError for anything else."""
        return Inventory.read(self.path)

    @property
    def exists(self) -> bool:
        """Whether there is such an index; an OutputExistsError if the folder holds something else."""
        return find(self.path, LIBRARY) is not None

    def sync(
        self,
        source: FolderSource,
        encoder: PassageEncoder | None = None,
        settings: LibrarySettings | None = None,
        *,
        model: Mapping[str, Any] | None = None,
        strict: bool = False,
        follow: bool = False,
    ) -> SyncReport:
        """Bring the index up to date with a folder.

        Args:
            source: The folder.
            encoder: Encodes what has no vector yet; None = an index without vectors, for BM25 alone.
            settings: How to index; None = as the last time, or the defaults.
            model: How to load the encoder, as a store records it; None = the one that the index knows.
            strict: A file that is skipped or read in part is an error, and nothing changes.
            follow: Let an index that followed another folder follow this one.

        Raises:
            OutputExistsError: The path holds something else, follows another folder, or another process is syncing it.
            EmptyCorpusError: The folder has no passage; the index stays as it is.
            DataError: ``strict``, and a file could not be read as a whole.
        """
        check_inputs(self.path, [source.folder], may_lie_inside=True)
        with claim(self.path, LIBRARY, {}, overwrite=True) as work:
            old, store = self._present()
            folder = str(source.folder.resolve())
            if old and old.folder != folder and not follow:
                raise OutputExistsError(
                    f"{self.path} follows {old.folder}, not {folder}; choose another index, or run `llama2vec sync "
                    f"{source.folder} {self.path} --overwrite` to let it follow this folder"
                )
            settings = settings or LibrarySettings.model_validate(old.settings if old else {})
            model = model or (old.model if old else None)
            try:
                return _Sync(work, source, encoder, settings, model, strict).run(old, store)
            except CorruptShardError as error:
                if store is None:
                    raise
                logger.warning("%s; rebuilding it", str(error).partition(";")[0])
                return _Sync(work, source, encoder, settings, model, strict).run(old, None)

    def remove(self, ids: Sequence[str]) -> int:
        """Take documents or passages out of the index; they stay away until their file changes.

        Args:
            ids: Ids of passages, or paths of files and documents.

        Returns:
            How many passages were removed; 0 where all of them were removed before.

        Raises:
            DataError: The index has no such document or passage, nor had it.
            EmptyCorpusError: Nothing would be left.
        """
        Inventory.read(self.path)
        with claim(self.path, LIBRARY, {}, overwrite=True) as work:
            old, store = self._present()
            if old is None or store is None:
                raise StoreError(f"{self.path} is damaged; run `llama2vec sync` to build it again")
            removed = rows_of(ids, old, store)
            if not removed:
                with suppress(FileNotFoundError):
                    remove(new_path(self.path.resolve()))
                return 0
            if len(removed) == len(store):
                raise EmptyCorpusError(f"{self.path} would be empty; delete the folder instead")
            files = []
            for record, span in old.spans():
                offsets = [row - span.start for row in span if row in removed]
                files.append(without(record, offsets, store.passages(span)) if offsets else record)
            encoder = _OnlyKnown(store, len(store) - len(removed)) if store.has_vectors else None
            settings = LibrarySettings.model_validate(old.settings)
            after = old.model_copy(update={"files": tuple(files), "versions": _versions(settings)})
            folder = work.begin()

            def passages() -> Iterator[Passage]:
                yield from (passage for row, passage in enumerate(store_passages(store)) if row not in removed)

            known = encoder and KnownVectors(encoder, store, dtype=settings.vector_format)
            _write(folder, self.path, passages, known, after)
            work.finish()
        return len(removed)

    def _present(self) -> tuple[Inventory | None, VectorStore | None]:
        """Return inventory and store of the index, None where there are none or they are damaged."""
        if not (self.path / INVENTORY_FILE).exists():
            return None, None
        inventory = None
        try:
            inventory = Inventory.read(self.path)
            store = VectorStore.open(self.path / STORE_FOLDER)
            if len(store) != sum(record.passages for record in inventory.files):
                raise StoreError(f"{store.path} holds other passages than {INVENTORY_FILE} says")
        except StoreError as error:
            logger.warning("%s; rebuilding it", str(error).partition(";")[0])
            return inventory, None
        return inventory, store


class _OnlyKnown:
    """Stands for the encoder of a store where no text is new."""

    def __init__(self, store: VectorStore, passages: int) -> None:
        self.dimension, self.contract_hash, self.dtype = store.dimension, store.contract_hash, store.compute_dtype
        self._cut, self._left = min(store.cut, passages), passages
        self._is_counted = store.cut > 0 or store.cuts_nothing

    def count_cut(self, passages: Sequence[Passage]) -> int | None:
        """Return how many passages can be cut at most: the store does not say which. The next sync counts them."""
        if not self._is_counted:
            return None
        self._left -= len(passages)
        most = max(0, self._cut - self._left)  # The last ones: of the first ones, a store warns at once
        self._cut -= most
        return most

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Never called with a text that the store has."""
        raise CorruptShardError(f"the store lacks the vector of passage {passages[0].id!r}; sync to build it again")


class _Sync:
    """One sync, from the comparison to the swap."""

    def __init__(
        self,
        work: Work,
        source: FolderSource,
        encoder: PassageEncoder | None,
        settings: LibrarySettings,
        model: Mapping[str, Any] | None,
        strict: bool,
    ) -> None:
        self._work, self._source, self._encoder = work, source, encoder
        self._settings, self._model, self._strict = settings, model, strict

    def run(self, old: Inventory | None, store: VectorStore | None) -> SyncReport:
        target, plan = self._work.output.resolve(), dict(self._source.plan)
        with Changes(self._source, old, store, leave_out=own_paths(target), spool=target.parent) as changes:
            after = Inventory(
                folder=str(self._source.folder.resolve()),
                settings=self._settings.model_dump(mode="json"),
                source=dict(self._source.settings),
                plan=plan,
                model=dict(self._model) if self._model else None,
                contract_hash=self._encoder.contract_hash if self._encoder else "",
                versions=_versions(self._settings),
                files=changes.records,
            )
            self._check(changes, after)
            _warn_of_removed(changes.counts)
            is_new = changes.differs or old is None or _made_by(old) != _made_by(after)
            encoded = self._replace(changes, after, store) if is_new else 0
            if not is_new:
                self._sweep(target)
            if not is_new and after != old:
                after.write(target)
        has_vectors = self._encoder is not None
        return SyncReport(changes.total, has_vectors, encoded, is_new, changes.counts, after.files)

    def _sweep(self, target: Path) -> None:
        """Remove what a sync left that was killed after its result had taken its place."""
        with suppress(FileNotFoundError):
            remove(new_path(target))
        if self._encoder is not None:
            remove_journals(_journal_path(target))

    def _check(self, changes: Changes, after: Inventory) -> None:
        if self._strict:
            SyncReport(changes.total, files=after.files).reading.check(str(self._source.folder))
        if not changes.total:
            raise EmptyCorpusError(f"{self._source.folder} has no text to index; nothing was changed")

    def _replace(self, changes: Changes, after: Inventory, store: VectorStore | None) -> int:
        """Write the new state and put it in place; return how many texts were encoded."""
        folder = self._work.begin()
        target = self._work.output.resolve()
        journal = Journal(self._encoder, _journal_path(target)) if self._encoder else None
        try:
            known: PassageEncoder | None = journal
            if journal and store and store.has_vectors and self._can_reuse(store, journal):
                # A service or a laptop may compute in another number format than the machine that made the index.
                known = KnownVectors(journal, store, dtype=self._settings.vector_format, mixes=True)
            written = _write(folder, self._work.output, changes.passages, known, after)
        except BaseException:
            if journal:
                journal.close()
            raise
        self._work.finish()
        if journal:
            journal.remove()
        warn_of_cut_passages(written, "split them with --set passages.split=auto", where=after.folder)
        return journal.encoded if journal else 0

    def _can_reuse(self, store: VectorStore, encoder: PassageEncoder) -> bool:
        """Tell whether the vectors of a store serve this index; warn where only their rounding is in the way."""
        if store.contract_hash != encoder.contract_hash:
            return False
        wanted, formats = self._settings.vector_format, get_args(VectorFormat)
        if formats.index(store.dtype) <= formats.index(wanted):
            return True
        option = "half" if store.dtype == "float16" else "int8"
        logger.warning(
            "%s: the vectors are stored as %s, which is less exact than %s, so all passages are encoded again; to keep "
            "the vectors, interrupt and set index.%s=true",
            self._work.output, store.dtype, wanted, option,
        )  # fmt: skip
        return False


def _warn_of_removed(counts: Counts) -> None:
    """Warn where removed passages are back, or may be."""
    for path in counts.returned:
        logger.warning("%s changed, so its removed passages are back", printable_line(path))
    for path, lost, removed in counts.resplit:
        which = f"{lost} of its {removed} removed passages" if removed > 1 else "its removed passage"
        have = "has" if lost == 1 else "have"
        logger.warning(
            "%s is read or split differently now: %s %s no counterpart, and the text may be back in others",
            printable_line(path), which, have,
        )  # fmt: skip


def _write(
    folder: Path,
    output: Path,
    passages: Callable[[], Iterator[Passage]],
    encoder: PassageEncoder | None,
    after: Inventory,
) -> VectorStore:
    """Write store, index and inventory into a folder that will move to ``output``; return the store."""
    settings = LibrarySettings.model_validate(after.settings)
    source: dict[str, object] = {"folder": after.folder, "fingerprint": after.fingerprint}
    if encoder is None:
        # The store says where it lies when it is asked: the index may move.
        source["add_vectors"] = "sync" if after.model else "sync --model"
    elif after.model:
        source["model"] = after.model
    total = sum(record.passages for record in after.files)
    store = write_store(
        passages, encoder, folder / STORE_FOLDER, source=source, shard_size=settings.shard_size,
        dtype=settings.vector_format, total=total,
    )  # fmt: skip
    kind = settings.kind if encoder is not None else "exact"
    place = output.resolve() / STORE_FOLDER
    build_index(store, folder / INDEX_FOLDER, kind=kind, bm25=settings.language, store_place=place)
    after.write(folder)
    return store


def _made_by(inventory: Inventory) -> tuple[Any, ...]:
    """Return what decides store and index besides the passages; a model may be known before it has made vectors."""
    return inventory.folder, inventory.settings, inventory.model, inventory.contract_hash, inventory.versions


def _versions(settings: LibrarySettings) -> dict[str, int]:
    """Return the versions of what an index makes of its passages; where one is raised, the next sync makes it again."""
    return {"fields": TABLE_VERSION, "words": words_version(settings.language)}


def _journal_path(target: Path) -> Path:
    return target.with_name(f".vectors-{target.name}")


def own_paths(index: Path) -> list[Path]:
    """Return what of a folder is never a document of it: its index with what a sync leaves, and the user's cache."""
    target = index.resolve()
    beside = [new_path(target), _journal_path(target), target.with_name(f".old-{target.name}")]
    return [target, *beside, *kept_journals(_journal_path(target)), cache_folder()]

"""What changed in a folder since an index was made, and the passages of the changed files.

A file is unchanged if its size and time are, in the same folder; otherwise its bytes and the day of its last change
decide, because passages can be searched by that day. Only new and changed files are read.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama2vec.data.corpus.document_ids import DocumentIds, document_groups, document_of, numbered
from llama2vec.data.corpus.rows import passage_line, passage_of
from llama2vec.data.documents.folder import SourceFile
from llama2vec.errors import UnreadableError
from llama2vec.files import disk_errors
from llama2vec.records import Passage
from llama2vec.retrieve.store.reader import VectorStore, store_passages
from llama2vec.retrieve.syncing.folder_source import FolderSource
from llama2vec.retrieve.syncing.inventory import FileRecord, Inventory
from llama2vec.retrieve.syncing.removals import StillRemoved, still_removed
from llama2vec.terminal import ProgressReporter

_SETTLED_NANOSECONDS = 2_000_000_000
"""A file that was written this recently may change again and keep its time."""
_READ_PASSAGES = 2048
_Old = FileRecord | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the next index will hold it, and where its passages are now."""

    record: FileRecord
    rows: range = range(0)  # In the present store
    spooled: tuple[int, int] | None = None  # Bytes of the spool, where the file was read

    @property
    def stays(self) -> bool:
        """Whether its passages are those in the present store."""
        return self.spooled is None


@dataclass(slots=True)
class Counts:
    """How many files were what."""

    added: int = 0
    changed: int = 0
    renamed: int = 0
    deleted: int = 0
    unchanged: int = 0
    returned: list[str] = field(default_factory=list)  # Files whose change brought back removed passages
    resplit: list[tuple[str, int, int]] = field(default_factory=list)  # File, removed passages not found again, of all

    def then(self, later: Counts) -> Counts:
        """Return the counts of two syncs in a row as those of one."""
        sums: dict[str, Any] = {one: getattr(self, one) + getattr(later, one) for one in self.__slots__}
        return Counts(**sums | {"unchanged": min(self.unchanged, later.unchanged)})


class Changes:
    """The next state of an index: every file, in order, and its passages. Use as a context manager.

    Args:
        source: The folder.
        old: What the index holds of each file; None = none was made yet.
        store: Its store; None = none that could be used, so every file is read.
        leave_out: Paths that do not belong to the folder, such as the index itself.
        spool: Folder of the file that holds the texts of what is read, best on the disk that the index needs anyway.
    """

    def __init__(
        self,
        source: FolderSource,
        old: Inventory | None,
        store: VectorStore | None,
        *,
        leave_out: Sequence[Path] = (),
        spool: Path | None = None,
    ) -> None:
        self._source, self._old, self._store = source, old, store
        self._leave_out, self._spool_folder = leave_out, spool or Path(tempfile.gettempdir())
        self._same_folder = old is not None and old.folder == str(source.folder.resolve())
        self._same_plan = old is not None and old.plan == dict(source.plan)
        self._same_split = old is not None and _split_plan(old.plan) == _split_plan(source.plan)
        self._ids, self._repeats = DocumentIds(), False  # Those of the files that were read
        self.counts = Counts()
        self.entries: list[Entry] = []

    def __enter__(self) -> Changes:
        # Outside the stack, because closing the file writes what is still in memory.
        with disk_errors(self._spool_folder, only_full=True), ExitStack() as stack:
            # The system removes it even where the process is killed; a name that begins with a dot is never read.
            spool = tempfile.TemporaryFile(prefix=".spool-", dir=self._spool_folder)
            self._spool = stack.enter_context(spool)
            self._compare()
            self._spool.flush()
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def records(self) -> tuple[FileRecord, ...]:
        """Every file, sorted by path."""
        return tuple(entry.record for entry in self.entries)

    @property
    def total(self) -> int:
        """How many passages there are."""
        return sum(entry.record.passages for entry in self.entries)

    @property
    def differs(self) -> bool:
        """Whether the passages differ from those of the present index."""
        stay = sum(len(entry.rows) for entry in self.entries if entry.stays)
        made = any(not entry.stays and entry.record.passages for entry in self.entries)
        return self._store is None or made or stay != len(self._store)

    def passages(self) -> Iterator[Passage]:
        """Yield all passages in order, those of unchanged files from the present store; no two have one id."""
        rows = range(0)  # Files that stayed and stand next to each other are mostly neighbors in the store too.
        for entry in self.entries:
            if entry.stays and (not rows or not entry.rows or entry.rows.start == rows.stop):
                rows = range(rows.start if rows else entry.rows.start, entry.rows.stop) if entry.rows else rows
                continue
            yield from self._stored(rows)
            rows = entry.rows if entry.stays else range(0)
            if entry.spooled is not None:
                numbers = entry.record.numbers
                for passage in self._spooled(*entry.spooled):
                    yield numbered(passage, numbers.get(document_of(passage), 1)) if numbers else passage
        yield from self._stored(rows)

    def _stored(self, rows: range) -> Iterator[Passage]:
        return store_passages(self._store, rows) if self._store is not None else iter(())

    def _spooled(self, begin: int, end: int) -> Iterator[Passage]:
        place = begin
        while place < end:
            self._spool.seek(place)  # each time: other files may be read in between
            line = self._spool.readline()
            place += len(line)
            yield passage_of(json.loads(line))

    def _compare(self) -> None:
        known = {record.path: (record, rows) for record, rows in self._old.spans()} if self._old else {}
        walk = self._source.walk(self._leave_out)
        there = {file.name for file in walk.files} | {skipped.name for skipped in walk.skipped}
        lost = [record for path, (record, _) in known.items() if path not in there]
        gone = {record.sha256: record for record in lost if record.sha256}
        with ProgressReporter("reading", "file") as progress:
            progress.start(len(walk.files))
            for file in walk.files:
                record, rows = known.get(file.name, (None, range(0)))
                self.entries.append(self._entry(file, record, rows, gone))
                progress.advance(1)
        away = [one for one in lost if one.removals != 0 and (one.sha256 in gone or not one.sha256)]
        for skipped in walk.skipped:
            old = known.get(skipped.name, (None,))[0]
            self.entries.append(self._skipped(skipped.reason, {"path": skipped.name}, old))
            for record in away if skipped.name.endswith("/") else ():  # A folder is skipped as a whole
                if record.path.startswith(skipped.name):
                    self.entries.append(self._skipped(skipped.reason, {"path": record.path}, None, record))
        self.entries.sort(key=lambda entry: entry.record.path)
        self._number({path: record for path, (record, _) in known.items()})
        self.counts.deleted += sum(not record.skipped for record in lost) - self.counts.renamed

    def _number(self, known: Mapping[str, FileRecord]) -> None:
        """Number the documents of read files whose ids others have; files that stay keep their ids."""
        if all(entry.stays for entry in self.entries) or (self._ids.take(self._staying()) and not self._repeats):
            return
        ids = DocumentIds()
        ids.take(self._staying())

        def turn(place: int) -> tuple[bool, int, str]:
            """Files that the index knew come first, as they were numbered then."""
            path = self.entries[place].record.path
            return path not in known, max(known[path].numbers.values(), default=1) if path in known else 1, path

        for place in sorted((place for place, entry in enumerate(self.entries) if not entry.stays), key=turn):
            entry = self.entries[place]
            assert entry.spooled is not None
            found = {document: ids.number(parts) for document, parts in document_groups(self._spooled(*entry.spooled))}
            numbers = {document: number for document, number in found.items() if number > 1}
            self.entries[place] = replace(entry, record=entry.record.model_copy(update={"numbers": numbers}))

    def _staying(self) -> Iterator[str]:
        """Yield the ids of the passages that stay as they are in the present store."""
        rows = (row for entry in self.entries if entry.stays for row in entry.rows)
        while batch := list(islice(rows, _READ_PASSAGES)):
            assert self._store is not None
            yield from self._store.passage_ids(batch)

    def _entry(self, file: SourceFile, old: FileRecord | None, rows: range, gone: dict[str, FileRecord]) -> Entry:
        usable = old is not None and bool(old.sha256) and self._same_plan and self._store is not None
        same_time = old is not None and (old.size, old.modified_ns) == (file.size, file.modified_ns)
        # A file of another folder may have the same name, size and time, as where two trees were unpacked.
        if old is not None and usable and same_time and self._same_folder:
            self.counts.unchanged += not old.skipped
            return Entry(old, rows)
        now = time.time_ns()
        try:
            content = self._source.content(file)
        except UnreadableError as error:
            return self._skipped(str(error), {"path": file.name}, old)
        settled = file.modified_ns if now - file.modified_ns > _SETTLED_NANOSECONDS else None
        sha256 = hashlib.sha256(content).hexdigest()
        facts = {
            "path": file.name, "size": len(content), "modified_ns": settled, "stamp": self._source.stamp(file),
            "sha256": sha256,
        }  # fmt: skip
        if old is not None and usable and (old.sha256, old.stamp) == (sha256, facts["stamp"]):
            self.counts.unchanged += not old.skipped
            return Entry(old.model_copy(update=facts), rows)
        same = old if old is not None and old.sha256 == sha256 else None
        before = same if old is not None else gone.pop(sha256, None)  # under another name
        entry = self._read(file, content, facts, old, before)
        if not entry.record.skipped:
            # A file of which everything stays removed adds nothing when it can be read again.
            is_new = old is None or (bool(old.skipped) and not entry.record.nothing_left)
            is_renamed = old is None and before is not None and not before.skipped
            self.counts.changed += not is_new and same is None
            self.counts.unchanged += not is_new and same is not None
            self.counts.renamed += is_renamed
            self.counts.added += is_new and not is_renamed
        return entry

    def _skipped(self, reason: str, facts: Mapping[str, Any], old: _Old, before: _Old = None) -> Entry:
        """Leave a file out. What was removed of it is kept, and the file read again each time until that works."""
        self.counts.deleted += old is not None and old.passages > 0
        known = old or before
        if known is not None and known.removals != 0:
            kept = known.model_dump(include={"sha256", "removed", "removed_texts"})
            facts = {"path": facts["path"], **kept}
        return Entry(FileRecord(**facts, skipped=reason))

    def _read(self, file: SourceFile, content: bytes, facts: Mapping[str, Any], old: _Old, before: _Old) -> Entry:
        """Read a file into the spool; what was removed of the same bytes ``before`` stays away."""
        try:
            passages, problems = self._source.read(file, content)
        except UnreadableError as error:
            return self._skipped(str(error), facts, old, before)
        removed, found = before.removed if before else (), StillRemoved()
        if before is not None and before.removals:
            found = still_removed(before, passages, same_split=self._same_split)
            removed = tuple(found.places)  # Never "all": another split may show text that was not removed
            self._note_lost(file.name, before, found)
        elif before is None and old is not None and old.removals != 0:
            self.counts.returned.append(file.name)
        kept = [passage for place, passage in enumerate(passages) if removed != "all" and place not in found.places]
        begin = self._spool.seek(0, 2)
        for passage in kept:
            self._spool.write(passage_line(passage))
        self._repeats |= not self._ids.take(passage.id for passage in kept)
        texts = (*found.places.values(), *found.missing) if removed != "all" else ()
        record = FileRecord(**facts, passages=len(kept), problems=tuple(problems), removed=removed, removed_texts=texts)
        return Entry(record, spooled=(begin, self._spool.tell()))

    def _note_lost(self, name: str, before: FileRecord, found: StillRemoved) -> None:
        """Note which removed passages are not found, unless that was noted when the file was split so."""
        removals = before.removals or 0
        noted = removals - len(before.removed) if self._same_plan and not before.skipped else 0
        if len(found.missing) > noted:
            self.counts.resplit.append((name, len(found.missing), removals))


def _split_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a plan the user decides: an upgrade changes the readers and their packages only."""
    return {name: value for name, value in plan.items() if name not in ("readers", "packages")}

"""A folder of documents: its files in order, each read by the reader of its format, and a report of what was not."""

from __future__ import annotations

import datetime
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.patterns import INDEX, ON_PURPOSE, Patterns, is_index
from llama2vec.data.documents.readers import read_bytes
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import CorpusFormatError, DataError, UnreadableError
from llama2vec.files import open_regular
from llama2vec.terminal import counted, printable_line

logger = logging.getLogger(__name__)

_OTHER_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)
_NANOSECONDS_A_DAY = 86_400 * 10**9
_NAMED_PER_REASON = 3
"""The table names this many files for each reason, and counts the others."""


UNREADABLE = "cannot be read"
"""How the reason begins that a file was skipped for which the system would not give."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that may hold documents, as the walk found it."""

    path: Path  # To open it with
    name: str  # Relative to the folder, with ``/`` between the parts
    size: int  # Bytes
    modified_ns: int  # Time of the last change, in nanoseconds since 1970
    changed_ns: int = field(default=0, compare=False)  # The same, of its permissions and name too


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not read, or only in part."""

    name: str  # Relative to the folder, with ? for what is not UTF-8
    reason: str  # In words

    def __post_init__(self) -> None:
        for key in ("name", "reason"):
            object.__setattr__(self, key, getattr(self, key).encode(errors="replace").decode())


@dataclass(frozen=True, slots=True)
class Walk:
    """What a folder holds: files to read, in order of their names, and what cannot be one."""

    root: Path  # The folder, or the one file
    files: tuple[SourceFile, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass
class ReadingReport:
    """What was read, and what was not: filled while :func:`read_documents` runs."""

    files: int = 0  # Files of which something was read
    documents: int = 0
    partly: list[Skipped] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    noted: list[Skipped] = field(default_factory=list)  # Read whole, but there is something to know of them

    @property
    def has_entries(self) -> bool:
        """Whether :meth:`table` names a file."""
        return bool(self.partly or self.skipped or self.noted)

    def summary(self) -> str:
        """Return the counts in one line.

        >>> ReadingReport(files=1, documents=12, skipped=[Skipped("a.png", "a picture")]).summary()
        'read 1 file (12 documents), skipped 1'
        """
        found = f"read {counted(self.files, 'file')} ({counted(self.documents, 'document')})"
        if self.partly:
            found += f", {len({one.name for one in self.partly}):,} of them only partly"
        return found + (f", skipped {len(self.skipped):,}" if self.skipped else "")

    def table(self) -> str:
        """Return the summary and, for each reason, the files that were skipped, only partly read, or noted."""
        lines = [self.summary()]
        for title, entries in (("partly read", self.partly), ("skipped", self.skipped), ("noted", self.noted)):
            by_reason: dict[str, list[str]] = {}
            for one in entries:
                by_reason.setdefault(one.reason, []).append(one.name)
            for reason, names in sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0])):
                shown = ", ".join(map(printable_line, names[:_NAMED_PER_REASON]))
                more = f", … {len(names) - _NAMED_PER_REASON:,} more" if len(names) > _NAMED_PER_REASON else ""
                lines.append(f"  {title} {len(names):>5,}  {reason}: {shown}{more}")
        return "\n".join(lines)

    def count(self, name: str, documents: Sequence[Document]) -> None:
        """Count a file that was read, and name what of it was not."""
        self.files += 1
        self.documents += len(documents)
        problems = dict.fromkeys(problem for one in documents for problem in one.problems)
        self.partly += [Skipped(name, problem) for problem in problems]

    def add(self, other: ReadingReport) -> None:
        """Take what another reading of the same files found."""
        self.files += other.files
        self.documents += other.documents
        self.partly += other.partly
        self.skipped += other.skipped
        self.noted += other.noted

    def check(self, where: str) -> None:
        """Raise one DataError if a file was skipped, other than by a pattern, or only partly read."""
        faults = [one for one in (*self.skipped, *self.partly) if not one.reason.startswith(ON_PURPOSE)]
        if faults:
            first, count = faults[0], counted(len({one.name for one in faults}), "file")
            raise DataError(
                f"{where}: {count} cannot be read whole, such as {printable_line(first.name)} ({first.reason}); "
                "exclude or repair them, or read without strict"
            )


def check_there(source: Path) -> None:
    """Raise a CorpusFormatError if a file or folder is missing."""
    if not os.path.lexists(source):
        raise CorpusFormatError(f"{source}: no such file or folder; check the path")


def walk(
    source: str | Path,
    settings: ReadingSettings | None = None,
    *,
    without: Collection[Path] = (),
    told: Collection[str] = (),
) -> Walk:
    """Return the files of a folder at any depth, sorted by name, or a single file; nothing is read.

    Hidden files and folders are left out. A link that leaves the source, or that leads to what is read anyway, is
    skipped by name, as are pipes, devices, indexes, stores and what ``include`` and ``exclude`` rule out. A warning
    names each pattern that matches nothing, once in a process.

    Args:
        source: Folder or file.
        settings: The patterns; None = the defaults.
        without: Files and folders that are left out without a word, such as an index within the folder.
        told: Patterns of which no warning is given, because an earlier call gave it.

    Raises:
        CorpusFormatError: No such file or folder.
    """
    settings = settings or ReadingSettings()
    root = Path(source)
    if root.is_dir():
        home, patterns = root.resolve(), Patterns(settings)
        # A folder around the root leaves nothing of it out.
        inside = {path for path in (one.resolve() for one in without) if home in path.parents}
        walking = _Walking(root, patterns, inside)
        for warning in patterns.warnings(told):
            _warn_once(f"{root}: {warning}")
        files = sorted(walking.files, key=lambda one: one.name)
        return Walk(root, tuple(files), tuple(sorted(walking.skipped, key=lambda one: one.name)))
    check_there(root)
    found = _looked_at(root, root.name)
    return Walk(root, (found,)) if isinstance(found, SourceFile) else Walk(root, (), (found,))


class _Walking:
    """One walk: folders first, then the folders within the root that links lead to and that are not read yet."""

    def __init__(self, root: Path, patterns: Patterns, without: set[Path]) -> None:
        self._root, self._home, self._patterns, self._without = root, root.resolve(), patterns, without
        self._walked = {self._home}
        self._links: list[Path] = []
        self._linked: list[SourceFile] = []
        self.files: list[SourceFile] = []
        self.skipped: list[Skipped] = []
        again: list[tuple[Path, Path]] = []
        self._walk(root)
        for link in self._links:  # Grows while folders behind links are walked
            target = link.resolve()
            if not target.is_relative_to(self._home):
                self._skip(link, "a link that leaves the folder")
            elif target in self._walked:
                again.append((link, target))
            else:
                self._walked.add(target)
                self._walk(link)
        # Patterns may rule out what such a folder holds under its own name.
        folders = {one.path.parent for one in self.files} if again else ()
        read = {above for one in folders for above in (one.resolve(), *one.resolve().parents)}
        for link, target in again:
            self._skip(
                link, f"a link to a folder {'that is read already' if target in read else 'from which no file is read'}"
            )
        self._add_linked()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _skip(self, folder: Path, reason: str) -> None:
        self.skipped.append(Skipped(f"{self._name(folder)}/", reason))

    def _unlisted(self, error: OSError) -> None:
        self._skip(Path(error.filename), f"cannot be listed ({error.strerror})")

    def _walk(self, top: Path) -> None:
        for parent, folders, names in os.walk(top, onerror=self._unlisted):
            place = Path(parent)
            shown = [place / name for name in sorted(folders) if not name.startswith(".")]
            folders[:] = [path.name for path in shown if self._enters(path)]
            for path in sorted(place / name for name in names if not name.startswith(".")):
                if not self._without or _target(path) not in self._without:
                    self._look_at(path)

    def _enters(self, folder: Path) -> bool:
        if reason := self._patterns.rules_out(self._name(folder), folder=True):
            self._skip(folder, reason)
        elif (home := folder.resolve()) in self._without:
            return False
        elif is_index(folder):
            self._skip(folder, INDEX)
        elif folder.is_symlink():
            self._links.append(folder)
        elif home not in self._walked:
            self._walked.add(home)
            return True
        return False

    def _look_at(self, path: Path) -> None:
        name = self._name(path)
        reason = self._patterns.rules_out(name) or _leaves(path, self._home)
        found = Skipped(name, reason) if reason else _looked_at(path, name)
        if isinstance(found, Skipped):
            self.skipped.append(found)
        else:
            (self._linked if path.is_symlink() else self.files).append(found)

    def _add_linked(self) -> None:
        """Add the files behind links, each once, unless they are read under their own names."""
        read = {one.path.resolve() for one in self.files} if self._linked else set()
        for one in self._linked:
            target = one.path.resolve()
            if target in read:
                self.skipped.append(Skipped(one.name, "a link to a file that is read already"))
            elif self._without.isdisjoint(target.parents):
                if not any(part.startswith(".") for part in target.relative_to(self._home).parts):
                    read.add(target)  # Else equal files of a store such as DVC's share one target
                self.files.append(one)


@cache
def _warn_once(message: str) -> None:
    """Warn of something in a folder once, however often the process walks through it."""
    logger.warning("%s", message)


def _target(path: Path) -> Path | None:
    """Return the file that a path leads to, None for a link that leads nowhere, or in a circle."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None


def _leaves(path: Path, home: Path) -> str:
    if not path.is_symlink():
        return ""
    target = _target(path)
    if target is None:
        return "a link that leads nowhere"
    return "" if target.is_relative_to(home) else "a link that leaves the folder"


def _looked_at(path: Path, name: str) -> SourceFile | Skipped:
    try:
        name.encode()
    except UnicodeEncodeError:
        return Skipped(name, "its name is not UTF-8; rename it")
    try:
        status = path.stat()
    except OSError as error:
        return Skipped(name, f"{UNREADABLE} ({error.strerror})")
    for is_kind, reason in _OTHER_KINDS:
        if is_kind(status.st_mode):
            return Skipped(name, reason)
    return SourceFile(path, name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_file(file: SourceFile, settings: ReadingSettings) -> list[Document] | Skipped:
    """Return the documents of one file, each with the field ``modified``, or why there are none."""
    try:
        documents = read_bytes(file_bytes(file, settings), file.name, settings)
    except UnreadableError as error:
        return Skipped(file.name, str(error))
    return [with_modified(one, file.modified_ns) for one in documents]


def file_bytes(file: SourceFile, settings: ReadingSettings) -> bytes:
    """Return the bytes of a file; raise an UnreadableError for a pipe, a folder or one above the limit."""
    limit = settings.max_file_bytes
    try:
        with open_regular(file.path) as stream:
            # Without trusting the size that the walk saw: the file may have grown.
            data = stream.read(limit + 1)
    except OSError as error:
        raise UnreadableError(f"{UNREADABLE} ({error.strerror or error})") from None
    if len(data) > limit:
        raise UnreadableError(f"larger than max_file_bytes ({limit:,})")
    return data


def with_modified(document: Document, modified_ns: int) -> Document:
    """Return a document with the day of its file's last change (UTC) as ``modified``, unless it has such a field.

    Filters do not tell upper from lower case, so its own field may be ``Modified``.
    """
    if any(name.lower() == "modified" for name in document.fields):
        return document
    return replace(document, fields={"modified": modified_day(modified_ns), **document.fields})


def modified_day(modified_ns: int) -> str:
    """Return the day (UTC) of a file's time; a time before or after the calendar gives its first or last day.

    >>> modified_day(1_700_000_000 * 10**9), modified_day(2**62 * 1000)
    ('2023-11-14', '9999-12-31')
    """
    day = datetime.date(1970, 1, 1).toordinal() + modified_ns // _NANOSECONDS_A_DAY
    return datetime.date.fromordinal(min(max(day, 1), datetime.date.max.toordinal())).isoformat()


def read_documents(
    source: str | Path | Walk,
    settings: ReadingSettings | None = None,
    *,
    report: ReadingReport | None = None,
) -> Iterator[Document]:
    """Stream the documents of a folder or a file, in the order of :func:`walk`.

    Args:
        source: Folder or file, or what :func:`walk` found there.
        settings: How to read it; None = the defaults.
        report: Takes the counts, and every file that was skipped or only partly read.

    Raises:
        CorpusFormatError: No such file or folder.
        DataError: ``settings.strict``, at the end: a file was skipped or only partly read.
    """
    settings = settings or ReadingSettings()
    report = report if report is not None else ReadingReport()
    found = source if isinstance(source, Walk) else walk(source, settings)
    where = str(found.root)
    report.skipped += found.skipped
    for file in found.files:
        documents = read_file(file, settings)
        if isinstance(documents, Skipped):
            report.skipped.append(documents)
        else:
            report.count(file.name, documents)
            yield from documents
    if settings.strict:
        report.check(where)

"""One protocol for every output: what it holds, who may write it, and when a new one replaces it.

Every verb makes its output like this; nothing else resumes or overwrites::

    with claim(output, KIND, plan, overwrite=overwrite, inputs=[corpus, model]) as work:
        if work.is_finished:            # the same plan made this output before
            return open_it(output)
        ...                             # check settings and read every input: a failure here changes nothing
        path = work.begin()             # from now on, write to `path`
        ...
        work.finish()                   # the result replaces `output` in one step

- An output is recognized by its content (:class:`Kind`), never by a file's name alone. Anything else is not touched.
- One live process owns an output. The lock ends with its process; a second owner gets one line. Only vector stores are
  shared: processes with the same plan write one together, and hold the lock just to begin and to finish.
- Only the files that a kind names are ever replaced. A folder that also holds something else is refused by its name;
  what appears in it during the work is carried over.
- A new, resumable output grows in place. A replacement grows next to it, in ``.new-NAME``, and the old one stays whole
  until the new one is complete. After a kill at any moment, the same call resumes.
- Each owner removes the leftovers of killed ones.
- A start that fails before it made anything worth keeping never blocks a corrected one.

Every refusal is an :class:`~llama2vec.errors.OutputExistsError`.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama2vec.errors import Llama2VecError, OutputBusyError, OutputExistsError
from llama2vec.files import (
    check_inputs,
    check_replaceable,
    disk_errors,
    finish_swap,
    link_tree,
    put_in_place,
    remove,
)
from llama2vec.locks import Lock
from llama2vec.manifest import plan_difference, same_plan, unsealed
from llama2vec.manifest import read_object as read_object

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}$")
_WAIT_SECONDS, _POLL_SECONDS = 60.0, 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """An artifact of the requested kind."""

    plan: Mapping[str, Any]  # What decided it, as it was written down
    finished: bool  # Whether it is whole
    worth_keeping: bool = True  # Whether an unfinished one has come far enough to be resumed
    is_busy: bool = False  # Whether processes that share it are writing it at this moment
    is_outdated: bool = False  # Whether a development version began it, and no later one can continue it


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of artifact."""

    noun: str  # What messages call it, with its article: ``an adaptation``
    read: Callable[[Path], Found | None]  # Returns what a path holds of this kind, None where it holds something else
    resumable: bool = True  # A new one grows in place and is resumed there; otherwise it appears only when it is whole
    is_folder: bool = True  # The artifact is a folder; otherwise one file
    entries: tuple[str, ...] = ()  # Patterns of the relative paths of its files; ``NAME/**`` is a folder and all in it
    leftovers: tuple[str, ...] = ()  # Patterns of what a finished one no longer needs
    advice: str = "choose another output or pass --overwrite"  # Ends the line that refuses another plan

    def refusal(self, there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        """Say why a plan cannot continue what another one made, and what to do; "" where it can."""
        return "" if same_plan(there, now) else f"with other settings ({plan_difference(there, now)}); {self.advice}"


def folder_kind(noun: str, file: str, form: Mapping[str, Any], entries: tuple[str, ...]) -> Kind:
    """Return the kind of a folder that appears when it is whole; a JSON file tells its format and what made it."""

    def read(folder: Path) -> Found | None:
        facts = unsealed(read_object(folder / file) or {}) or {}
        return Found(facts.get("made", {}), finished=True) if facts.get("format") == form["format"] else None

    return Kind(noun, read, resumable=False, entries=entries)


@dataclass(slots=True)
class Work:
    """The right to make one output, as :func:`claim` gives it."""

    output: Path  # As the user named it
    path: Path  # Where to write: the output itself, or next to an older one
    is_finished: bool  # The same plan made the output already; there is nothing to do
    _look: Callable[[], tuple[bool, Path]]
    _kind: Kind
    _plan: Mapping[str, Any]
    _is_shared: bool
    _begun: bool = field(default=False, init=False)

    def begin(self, keep: Sequence[str] = (), prepare: Callable[[Path], None] = lambda path: None) -> Path:
        """Make room for the output, or find what an earlier call with the same plan left; return where to write.

        ``keep`` names entries of the replaced output to carry over; ``prepare`` writes what must exist at once.
        """
        kind, target = self._kind, self.output.resolve()
        with self._alone(), disk_errors(self.output):
            self.is_finished, self.path = self._look()
            if self.is_finished:  # by another process that shares the work
                return self.path
            found = kind.read(self.path) if kind.resumable else None
            resumes = found is not None and not kind.refusal(found.plan, self._plan)
            # In place only an artifact of ours may go (it was begun from another plan and came nowhere).
            if not resumes and (self.path != target or found is not None):
                _refuse_busy(self.output, found)
                self._discard()
            self._begun = True
            if kind.is_folder:
                self.path.mkdir(parents=True, exist_ok=True)
                for name in keep:
                    if not os.path.lexists(self.path / name):
                        link_tree(target / name, self.path / name)
            if not self._is_shared:
                sweep_temporary(self.path)
            prepare(self.path)
        return self.path

    def finish(self, complete: Callable[[], None] = lambda: None) -> None:
        """Put the result in the output's place in one step, after calling ``complete``."""
        target = self.output.resolve()
        with self._alone(), disk_errors(self.output):
            if os.path.lexists(self.path):
                complete()
                if self.path != target:
                    replace_output(target, self.path, self._kind)
        self.path, self._begun = target, False

    def give_up(self) -> None:
        """Remove an unfinished result, unless it is worth resuming."""
        if not self._begun:
            return
        with self._alone():
            found = self._kind.read(self.path) if self._kind.resumable else None
            if not (found and (found.finished or found.worth_keeping or found.is_busy)):
                self._discard()

    def _discard(self) -> None:
        if self.path == self.output.resolve():
            discard(self.path, self._kind)
        else:
            remove(self.path)  # Whatever is not ours in there lies in the output, too

    def _alone(self) -> AbstractContextManager[None]:
        return owned(self.output, wait_seconds=_WAIT_SECONDS) if self._is_shared else nullcontext()


@contextmanager
def claim(
    output: str | Path,
    kind: Kind,
    plan: Mapping[str, Any],
    *,
    overwrite: bool = False,
    again: bool = True,
    extend: bool = False,
    inputs: Iterable[str | Path | None] = (),
    shared: bool = False,
) -> Iterator[Work]:
    """Take an output for as long as the block runs.

    Args:
        output: The folder or file to make.
        kind: The kind of artifact.
        plan: Everything that decides the result; JSON types. Equal plans make equal artifacts.
        overwrite: Replace an artifact of this kind that another plan made, and with ``again`` one of the same plan.
        extend: Add to an artifact of this kind; all that the folder also holds is carried over.
        inputs: The inputs of the result. Names other than local paths are ignored.
        shared: Several processes with the same plan may make the output together.

    Raises:
        OutputExistsError: The output holds something else or an input, or another process is writing it.
        DataError: The disk is full, or the output cannot be written.
    """
    output = Path(output)
    check_inputs(output, inputs)

    def look() -> tuple[bool, Path]:
        finished, path = _look(output, kind, plan, overwrite=overwrite, again=again, extend=extend)
        if path != output.resolve():
            check_replaceable(output)
        return finished, path

    finished, path = look()
    if finished:
        tidy(output, kind)
    with nullcontext() if shared or finished else owned(output):  # a finished one may lie in a read-only folder
        if not finished:
            finished, path = look()
        work = Work(output, path, finished, look, kind, plan, shared)
        try:
            with disk_errors(output, only_full=True):
                yield work
        except BaseException:
            work.give_up()
            raise


def check_claim(output: Path, kind: Kind, plan: Callable[[], Mapping[str, Any]], *, overwrite: bool) -> None:
    """Raise what :func:`claim` would for what an output holds, and change nothing; ``plan`` is asked if needed."""
    if os.path.lexists(output):
        _look(output, kind, plan(), overwrite=overwrite)


@contextmanager
def owned(output: str | Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Be the one live process that writes an output; wait for another one, then raise an OutputExistsError."""
    output = Path(output)
    target = output.resolve()
    # If nothing can be made next to the output (the root of a volume), the lock lies inside.
    beside = target.parent if os.access(target.parent, os.W_OK) or not target.is_dir() else target
    lock = Lock(beside / f".lock-{target.name}")
    deadline = time.monotonic() + wait_seconds
    missing = [folder for folder in target.parents if not folder.exists()]
    with disk_errors(output):
        beside.mkdir(parents=True, exist_ok=True)
        while not (taken := lock.acquire()) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    if not taken:
        raise OutputBusyError(f"{output}: {lock.owner()} is writing it; wait for it, or choose another output")
    try:
        with disk_errors(output):
            finish_swap(target)
        yield
    finally:
        lock.release()
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()  # unless something was made in it


def tidy(output: Path, kind: Kind | None = None) -> None:
    """Remove what an owner left that was killed after its output was whole; in a read-only folder it stays.

    A replacement of a resumable kind that other settings began is newer than the output, and stays to be resumed.
    """
    target = output.resolve()
    new, old = new_path(target), target.with_name(f".old-{target.name}")
    patterns = kind.leftovers if kind and kind.is_folder else ()
    around = (new, old, target.with_name(f".lock-{target.name}"))
    if any(map(os.path.lexists, around)) or any(any(target.glob(pattern)) for pattern in patterns):
        with suppress(Llama2VecError, OSError), owned(output):  # which removes the rest
            for path in [path for pattern in patterns for path in target.glob(pattern)]:
                remove(path)
            if os.path.lexists(new) and not (kind and kind.resumable and _newest(new) >= _newest(target)):
                remove(new)


def _newest(path: Path) -> float:
    """Return when the newest file of a folder, or the file itself, was written."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def bring_back(path: Path) -> None:
    """Undo a swap that a kill cut in two, of an output or of what it is in; an OutputBusyError if it has an owner."""
    whole = path.resolve()
    for output in (whole.parent, whole):
        if not os.path.lexists(output) and os.path.lexists(output.with_name(f".old-{output.name}")):
            with owned(output, wait_seconds=_WAIT_SECONDS):  # which begins by undoing it
                pass


def find(output: Path, kind: Kind) -> Found | None:
    """Return the artifact at an output, None if the place is free; raise an OutputExistsError for anything else."""
    bring_back(output)
    target = output.resolve()
    if is_free(target) and (kind.is_folder or not target.is_dir()):
        return None
    found = kind.read(target) if target.is_dir() == kind.is_folder else None
    if found is None:
        raise OutputExistsError(
            f"{output}: exists and does not hold {kind.noun} of llama2vec; choose another output (nothing was changed)"
        )
    return found


def strangers(folder: Path, kind: Kind) -> list[str]:
    """Return the relative paths of all files in a folder that no artifact of this kind holds; links count as files."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() and not folder.is_symlink() else ():
        name = path.relative_to(folder).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and not (_is_litter(path) or any(_matches(name, pattern) for pattern in kind.entries)):
            found.append(name)
    return found


def refuse_strangers(folder: Path, kind: Kind) -> None:
    """Raise an OutputExistsError that names the first file that replacing a folder would delete."""
    found = strangers(folder.resolve(), kind)
    if found:
        raise OutputExistsError(
            f"{folder}: holds {found[0]}, which llama2vec did not write and would delete; move it away"
        )


def replace_output(target: Path, new: Path, kind: Kind) -> None:
    """Let a new output take the place of an old one, with what somebody put into the old folder meanwhile."""
    for name in strangers(target, kind) if kind.is_folder else ():
        if not os.path.lexists(new / name):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            link_tree(target / name, new / name)
    put_in_place(new, target)


def discard(path: Path, kind: Kind) -> None:
    """Remove an artifact; whatever else its folder holds stays."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    kept = {path / name for name in strangers(path, kind)}
    if not kept:
        remove(path)
        return
    for entry in sorted(path.rglob("*"), reverse=True):  # what a folder holds comes before the folder
        if entry in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            with suppress(OSError):
                entry.rmdir()  # unless something of somebody else's is in it
        else:
            entry.unlink(missing_ok=True)


def is_free(target: Path) -> bool:
    """Return whether a path holds nothing, or a folder with nothing but leftovers of killed owners."""
    return not os.path.lexists(target) or (target.is_dir() and all(map(_is_litter, target.iterdir())))


def new_path(target: Path) -> Path:
    """Return the path where the replacement of an output grows; it keeps the suffix."""
    return target.with_name(f".new-{target.name}")


def sweep_temporary(folder: Path) -> None:
    """Remove half-written files of killed owners from a folder; only its present owner may."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.search(path.name):
            remove(path)


def _look(
    output: Path, kind: Kind, plan: Mapping[str, Any], *, overwrite: bool, again: bool = True, extend: bool = False
) -> tuple[bool, Path]:
    """Return whether the plan has already made the output, and otherwise where to write."""
    target = output.resolve()
    in_place = target if kind.resumable and kind.is_folder else new_path(target)
    if (found := find(output, kind)) is None:
        return False, in_place
    refusal = kind.refusal(found.plan, plan)
    if not refusal and not (found.finished and overwrite and again):
        return (True, target) if found.finished else (False, in_place)
    _refuse_busy(output, found)
    if (found.finished or found.worth_keeping) and not (overwrite or extend):
        holds = f"holds {kind.noun}" if found.finished else f"holds an unfinished {kind.noun.partition(' ')[2]}"
        if found.is_outdated:
            refusal = f"that a development version of llama2vec began, which cannot be continued; {kind.advice}"
        raise OutputExistsError(f"{output}: {holds} {refusal}")
    if kind.is_folder and not extend:
        refuse_strangers(output, kind)
    return False, new_path(target) if found.finished or found.worth_keeping else in_place


def _refuse_busy(output: Path, found: Found | None) -> None:
    if found is not None and found.is_busy:
        raise OutputBusyError(f"{output}: another process is writing it; wait for it, or choose another output")


def _is_litter(path: Path) -> bool:
    return bool(_TEMPORARY.search(path.name)) or path.name == f".lock-{path.parent.name}"


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a relative path has a pattern's form, folder by folder.

    >>> _matches("bm25/part.json", "*.json"), _matches("checkpoints/a/b", "checkpoints/**")
    (False, True)
    """
    parts, wanted = name.split("/"), pattern.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        parts = parts[: len(wanted)]
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))

"""One protocol for every output: what is there, who may write it, and when a new one takes its place.

A verb that makes something at ``output`` does this, and nothing else resumes or overwrites::

    with claim(output, KIND, plan, overwrite=overwrite, inputs=[corpus, model]) as work:
        if work.is_finished:            # the same plan made what is there
            return open_it(output)
        ...                             # check settings and read every input: a failure here changes nothing
        path = work.begin()             # from here on, write to `path`
        ...
        work.finish()                   # what was made takes the place of `output` in one step

- An output is recognized by its content (:class:`Kind`), never by a file's name alone. Anything else is not touched.
- One live process owns an output. The lock ends with its process; a second owner gets one line. Only vector stores are
  shared: processes with the same plan write one together, and hold the lock just to begin and to finish.
- A new output that can be resumed grows in place. One that replaces another grows beside it, in ``.new-NAME``, and
  the old one stays whole until the new one is. Killed at any moment, the same call resumes.
- Each owner removes what killed ones left beside the output.
- A start that fails before it made anything worth keeping leaves nothing that blocks a corrected one.

Every refusal is an :class:`~llama2vec.errors.OutputExistsError`.
"""

from __future__ import annotations

import ctypes
import fnmatch
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama2vec.errors import OutputExistsError
from llama2vec.files import disk_errors, disk_full, is_disk_full, sync_folder, write_json
from llama2vec.locks import Lock
from llama2vec.manifest import canonical_json, digest, first_difference

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}$")
_EVERYWHERE = ("*.tmp-*", ".lock-*")
_WAIT_SECONDS, _POLL_SECONDS = 60.0, 0.1
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


@dataclass(frozen=True, slots=True)
class Found:
    """An artifact of the kind that was asked for.

    Attributes:
        plan: What decided it, as it was written down.
        finished: Whether it is whole.
        worth_keeping: Whether an unfinished one has come far enough to be resumed.
        is_busy: Whether processes that share it are writing it at this moment.
    """

    plan: Mapping[str, Any]
    finished: bool
    worth_keeping: bool = True
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of artifact.

    Attributes:
        noun: What messages call it, with its article: ``an adaptation``.
        read: Returns what a path holds of this kind, None where it holds something else.
        plan_file: Receives the plan when work begins; "" = the verb writes its own.
        resumable: A new one grows in place and is resumed there; otherwise it appears only when it is whole.
        is_folder: The artifact is a folder; otherwise one file.
        entries: Patterns of the names that such a folder holds. Anything else is the user's, and is never deleted.
        advice: Ends the line that refuses another plan.
    """

    noun: str
    read: Callable[[Path], Found | None]
    plan_file: str = ""
    resumable: bool = True
    is_folder: bool = True
    entries: tuple[str, ...] = ("*",)
    advice: str = "choose another output or pass --overwrite"


def planned_kind(
    noun: str,
    plan_file: str,
    finished_file: str,
    worth_keeping: Callable[[Path], bool] = lambda folder: True,
    entries: tuple[str, ...] = ("*",),
) -> Kind:
    """Return the kind of a folder whose plan carries its own hash (:func:`hashed_plan`).

    Args:
        noun: What messages call it, with its article.
        plan_file: Name of the plan in the folder.
        finished_file: Name of the file that is written last.
        worth_keeping: Says of an unfinished folder whether there is anything to resume.
        entries: Patterns of the names that such a folder holds.
    """

    def read(folder: Path) -> Found | None:
        plan = read_object(folder / plan_file)
        if plan is None or plan.get("hash") != digest({key: plan[key] for key in plan if key != "hash"}):
            return None
        return Found(plan, (folder / finished_file).is_file(), worth_keeping(folder))

    return Kind(noun, read, plan_file, entries=entries)


def hashed_plan(decides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with the hash by which its file is recognized later.

    >>> sorted(hashed_plan({"settings": {"steps": 2}}))
    ['hash', 'settings']
    """
    return {**decides, "hash": digest(decides)}


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is no such regular file or it holds something else."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(slots=True)
class Work:
    """The sole right to make one output, as :func:`claim` gives it.

    Attributes:
        output: As the user named it.
        path: Where to write: the output itself, or its place beside an older one.
        is_finished: The same plan made the output already; there is nothing to do.
    """

    output: Path
    path: Path
    is_finished: bool
    _kind: Kind
    _plan: Mapping[str, Any]
    _target: Path
    _overwrite: bool = False
    _is_shared: bool = False
    _begun: bool = field(default=False, init=False)

    def begin(self, keep: Sequence[str] = (), prepare: Callable[[Path], None] = lambda path: None) -> Path:
        """Make room for the output, or find what an earlier call with the same plan left; return where to write.

        Args:
            keep: Entries of the output that is replaced which the new one carries on.
            prepare: Lays down what others must see from the first moment, such as a plan of the verb's own.
        """
        kind = self._kind
        with self._alone(), disk_errors(self.output):
            if self._is_shared:
                self.is_finished, self.path = _look(
                    self.output, self._target, kind, self._plan, overwrite=self._overwrite
                )
                if self.is_finished:
                    return self.path
            found = kind.read(self.path) if kind.resumable else None
            resumes = found is not None and _is_same(found.plan, self._plan)
            # In place only an artifact of ours may go (it was begun from another plan and came nowhere).
            if not resumes and (self.path != self._target or found is not None):
                _refuse_busy(self.output, found)
                _clear(self.path, kind)
            self._begun = True
            if kind.is_folder:
                self.path.mkdir(parents=True, exist_ok=True)
                sweep_temporary(self.path)
                for name in keep:
                    _link_tree(self._target / name, self.path / name)
            if kind.plan_file and not resumes:
                write_json(self.path / kind.plan_file, dict(self._plan))
            prepare(self.path)
        return self.path

    def finish(self, complete: Callable[[], None] = lambda: None) -> None:
        """Let what was made take the place of the output, in one step.

        Args:
            complete: Does what is left, once even where several processes share the work.
        """
        with self._alone(), disk_errors(self.output):
            if os.path.lexists(self.path):
                complete()
                if self.path != self._target:
                    put_in_place(self.path, self._target)
        self.path, self._begun = self._target, False

    def give_up(self) -> None:
        """Remove what was begun, unless it is worth resuming."""
        if not self._begun:
            return
        with self._alone():
            found = self._kind.read(self.path) if self._kind.resumable else None
            if found is None or not (found.finished or found.worth_keeping or found.is_busy):
                _clear(self.path, self._kind)

    def _alone(self) -> AbstractContextManager[None]:
        return owned(self.output, wait_seconds=_WAIT_SECONDS) if self._is_shared else nullcontext()


@contextmanager
def claim(
    output: str | Path,
    kind: Kind,
    plan: Mapping[str, Any],
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
    shared: bool = False,
) -> Iterator[Work]:
    """Take an output for as long as the block runs.

    Args:
        output: The folder or file to make.
        kind: What it will be.
        plan: What decides the result; JSON types. Equal plans make equal artifacts.
        overwrite: Replace an artifact of this kind that another plan made, or make a finished one again.
        inputs: What the result is made from. Names that are no path on this machine are ignored.
        shared: Several processes with the same plan may make the output together.

    Raises:
        OutputExistsError: The output holds something else, is another process' at this moment, or holds an input.
    """
    output = Path(output)
    target = output.resolve()
    check_inputs(output, inputs)
    if not overwrite and _look(output, target, kind, plan, overwrite=False)[0]:
        # Also where nobody may write.
        yield Work(output, target, True, kind, plan, target)
        return
    made = _make_parents(output, target)
    try:
        with nullcontext() if shared else owned(output):
            finished, path = _look(output, target, kind, plan, overwrite=overwrite)
            work = Work(output, path, finished, kind, plan, target, overwrite, shared)
            try:
                yield work
            except BaseException as problem:
                work.give_up()
                if is_disk_full(problem):
                    raise disk_full(output) from problem
                raise
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def owned(output: str | Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Be the one live process that writes an output; remove what killed ones left beside it.

    Args:
        output: The folder or file.
        wait_seconds: How long another owner is waited for.

    Raises:
        OutputExistsError: Another process is writing it.
    """
    output = Path(output)
    target = output.resolve()
    # Where nothing can be made beside the output (the root of a volume), the lock lies inside.
    beside = target.parent if os.access(target.parent, os.W_OK) or not target.is_dir() else target
    lock = Lock(beside / f".lock-{target.name}")
    deadline = time.monotonic() + wait_seconds
    with disk_errors(output):
        while not (taken := lock.acquire()) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    if not taken:
        raise OutputExistsError(f"{output}: {lock.owner()} is writing it; wait for it, or choose another output")
    try:
        with disk_errors(output):
            _recover(target)
        yield
    finally:
        lock.release()


def check_inputs(output: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse an output that is one of its own inputs, or holds one.

    Raises:
        OutputExistsError: Names the input.
    """
    target = output.resolve()
    for name in inputs:
        if not name:
            continue
        with suppress(OSError, ValueError):
            path = Path(name).resolve()
            if path.exists() and (path == target or target in path.parents):
                where = "is the output itself" if path == target else f"lies inside the output {output}"
                raise OutputExistsError(f"the input {name} {where}; choose another output")


def put_in_place(new: Path, target: Path) -> None:
    """Move a new file or folder to its place; what was there is gone afterwards, and whole until then."""
    if target.is_dir() and any(target.iterdir()):
        if not _exchange(new, target):
            old = target.with_name(f".old-{target.name}")
            _remove(old)
            target.rename(old)
            new.rename(target)
            new = old
        sync_folder(target.parent)
        _remove(new)
    else:
        os.replace(new, target)
        sync_folder(target.parent)


def new_path(target: Path) -> Path:
    """Return where the successor of an output grows.

    >>> new_path(Path("runs/mined.jsonl")).name
    '.new-mined.jsonl'
    """
    return target.with_name(f".new-{target.name}")


def _look(output: Path, target: Path, kind: Kind, plan: Mapping[str, Any], *, overwrite: bool) -> tuple[bool, Path]:
    """Return whether the plan has made the output already, and where to write otherwise."""
    in_place = target if kind.resumable and kind.is_folder else new_path(target)
    is_fitting = target.is_dir() == kind.is_folder
    if not os.path.lexists(target) or (is_fitting and _is_free(target)):
        return False, in_place
    found = kind.read(target) if is_fitting else None
    noun = kind.noun.partition(" ")[2]
    if found is None:
        raise OutputExistsError(
            f"{output}: exists and does not hold {kind.noun} of llama2vec; choose another output (nothing was changed)"
        )
    same = _is_same(found.plan, plan)
    if found.finished and same and not overwrite:
        return True, target
    if same and not found.finished:
        return False, in_place
    _refuse_busy(output, found)
    if not (found.finished or found.worth_keeping):
        _refuse_strangers(output, target, kind)
        return False, in_place
    if not overwrite:
        state = "holds" if found.finished else "holds an unfinished"
        name = kind.noun if found.finished else noun
        raise OutputExistsError(
            f"{output}: {state} {name} with other settings ({_difference(found.plan, plan)}); {kind.advice}"
        )
    _refuse_strangers(output, target, kind)
    return False, new_path(target)


def _refuse_busy(output: Path, found: Found | None) -> None:
    if found is not None and found.is_busy:
        raise OutputExistsError(f"{output}: another process is writing it; wait for it, or choose another output")


def _refuse_strangers(output: Path, target: Path, kind: Kind) -> None:
    """Refuse to delete a folder together with something that llama2vec did not put there."""
    for path in sorted(target.iterdir()) if kind.is_folder else ():
        if not _is_ours(path, kind):
            raise OutputExistsError(
                f"{output}: holds {path.name}, which llama2vec did not write and would delete; move it away"
            )


def _is_ours(entry: Path, kind: Kind) -> bool:
    return any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in (*kind.entries, *_EVERYWHERE))


def _clear(path: Path, kind: Kind) -> None:
    """Remove what llama2vec has made at a path, and the folder where nothing else is in it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        if _is_ours(entry, kind):
            _remove(entry)
    with suppress(OSError):
        path.rmdir()


def _is_free(target: Path) -> bool:
    """Return whether a folder holds nothing but what a kill may have left."""
    return target.is_dir() and all(_TEMPORARY.search(path.name) or _is_lock(path) for path in target.iterdir())


def _is_lock(path: Path) -> bool:
    return path.name == f".lock-{path.parent.name}"


def _is_same(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return canonical_json(there) == canonical_json(now)


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the first setting or input that differs."""
    old_plan, new_plan = ({**plan, "hash": ""} for plan in (there, json.loads(canonical_json(now))))
    # Settings tell a reader more than fingerprints do.
    differs = first_difference(old_plan.get("settings", {}), new_plan.get("settings", {}))
    differs = differs or first_difference(old_plan, new_plan)
    if differs is None:
        return "its plan"
    name, old, new = differs
    if isinstance(old, str) and isinstance(new, str) and min(len(old), len(new)) >= 32:
        return f"the {name} has other content"
    return f"{name}: {old!r} there, {new!r} now"


def _recover(target: Path) -> None:
    """Undo a swap that a kill cut in two, and remove what is left of finished ones."""
    old = target.with_name(f".old-{target.name}")
    if os.path.lexists(old):
        if os.path.lexists(target):
            _remove(old)
        else:
            old.rename(target)


def sweep_temporary(folder: Path) -> None:
    """Remove what killed writers left in a folder; for its owner only."""
    for path in folder.iterdir():
        if _TEMPORARY.search(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _make_parents(output: Path, target: Path) -> list[Path]:
    """Make the folders above an output; return those that were missing, the innermost first."""
    missing = [folder for folder in target.parents if not folder.exists()]
    with disk_errors(output):
        target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _link_tree(source: Path, destination: Path) -> None:
    """Let a folder appear in a second place without copying its files, where the file system can."""

    def link(there: str, here: str) -> None:
        try:
            os.link(there, here)
        except OSError:
            shutil.copy2(there, here)

    if source.is_dir():
        shutil.copytree(source, destination, copy_function=link)
    elif source.is_file():
        link(str(source), str(destination))


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths trade places in one step; return False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)

"""Files that appear whole or not at all, their checksums, and one line for a disk that is full."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from llama2vec.errors import DataError, Llama2VecError, OutputExistsError
from llama2vec.locks import NoLocksError, try_lock

try:
    import fcntl
except ImportError:  # Windows: owners are told apart within one process only
    fcntl = None  # type: ignore[assignment]

_halves: set[Path] = set()
"""Half-written files of this process."""
_RENAME_NOREPLACE, _RENAME_EXCHANGE, _AT_FDCWD = 1, 2, -100  # linux/fs.h, fcntl.h
_FULL = (
    "No space left on device", "os error 28", "Disk quota exceeded", "inline_container", "PytorchStreamWriter",
    "iostream error", "database or disk is full",
)  # fmt: skip
"""How the operating system, safetensors, torch and SQLite report a full disk; the last four give no error number."""
_SQLITE_REFUSALS = (8, 10, 14)
"""SQLITE_READONLY, SQLITE_IOERR and SQLITE_CANTOPEN: what SQLite makes of the system's other errors."""


def write_atomic(
    path: Path, content: bytes | Iterable[bytes], *, replace: bool = True, sweep: bool = False
) -> dict[str, Any]:
    """Write a file that appears whole or not at all, even after a power cut; return its ``bytes`` and ``sha256``.

    Without ``replace``, a file that is there by then stays, and a FileExistsError is raised. With ``sweep``, what
    killed writers of this file left next to it is removed first.
    """
    if sweep:
        _sweep_halves(path)
    temp = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    digest, size, put = hashlib.sha256(), 0, os.replace if replace else _place
    _halves.add(temp)
    try:
        with temp.open("wb") as file:
            with suppress(OSError):  # not every file system has locks
                try_lock(file.fileno())  # which keeps sweepers away while its writer lives
            for chunk in [content] if isinstance(content, bytes) else content:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                put(temp, path)
        if fcntl is None:  # Windows moves only closed files
            put(temp, path)
        sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)
        _halves.discard(temp)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _place(temp: Path, path: Path) -> None:
    """Move a file to its place unless something has appeared there."""
    if _rename(temp, path, _RENAME_NOREPLACE):
        return
    try:
        os.link(temp, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the rest of a moment stays unguarded
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temp, path)


def _sweep_halves(path: Path) -> None:
    """Remove half-written files of killed writers of ``path``: those without a lock."""
    for half in path.parent.glob(f"{glob.escape(path.name)}.tmp-{'[0-9a-f]' * 32}"):
        # Closing a file gives up its locks in the whole process, so our own may not even be opened.
        if half not in _halves:
            with suppress(OSError), half.open("r+b") as file:
                if try_lock(file.fileno()):
                    half.unlink(missing_ok=True)


def write_json(path: Path, data: object, *, sweep: bool = False) -> None:
    """Write indented JSON atomically; ``sweep`` as in :func:`write_atomic`."""
    write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode(), sweep=sweep)


class FileKind(NamedTuple):
    """What a command writes to one file, and the only thing that its ``--overwrite`` replaces."""

    noun: str
    start: bytes  # Regular expression of the file's first bytes


def write_output(path: Path, content: str | Iterable[bytes], kind: FileKind, *, overwrite: bool = False) -> None:
    """Write a result that the user asked for atomically.

    Raises:
        OutputExistsError: The file exists and ``overwrite`` is not given, or it holds anything but this kind.
        DataError: The disk is full, or the file cannot be written.
    """
    check_new(path, overwrite=overwrite, kind=kind)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            new = content.encode() if isinstance(content, str) else content
            write_atomic(path, new, replace=overwrite, sweep=True)
        except FileExistsError:
            raise _taken(path) from None


def check_new(
    path: Path | None, *, overwrite: bool, inputs: Iterable[str | Path | None] = (), kind: FileKind | None = None
) -> None:
    """Raise an OutputExistsError, before the work, for an output that is or lies in an input, or that must stay."""
    if path is None:
        return
    check_inputs(path, inputs)
    if path.is_dir() or (os.path.lexists(path) and not (overwrite and path.is_file())):
        raise _taken(path)
    if kind and path.is_file():
        with disk_errors(path), open_regular(path) as file:
            start = file.read(4096)
        if start and not re.match(kind.start, start, re.DOTALL):
            raise OutputExistsError(f"{path} does not hold {kind.noun}; choose another path (nothing was changed)")


def _taken(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} exists already; choose another path or --overwrite")


def check_inputs(output: Path, inputs: Iterable[str | Path | None], *, may_lie_inside: bool = False) -> None:
    """Raise an OutputExistsError if an input is the output, lies in it, or is a folder that the output lies in.

    An output inside a folder of documents would be read as documents the next time, by this or another command, unless
    a hidden folder holds it, which no command reads. Names other than local paths are ignored.

    Args:
        output: What is to be written.
        inputs: What is read.
        may_lie_inside: Allow an output anywhere in an input, because its reader leaves the output out.
    """
    target = output.resolve()
    for name in [name for name in inputs if name]:
        with suppress(OSError, ValueError):
            path = Path(name).resolve(strict=True)
            if target.exists() and path.samefile(target):
                raise OutputExistsError(f"the input {name} is the output itself; choose another output")
            if target in path.parents:
                raise OutputExistsError(f"the input {name} lies inside the output {output}; choose another output")
            if path in target.parents and not (may_lie_inside or _is_hidden(target.relative_to(path))):
                raise OutputExistsError(f"the output {output} lies inside the input {name}; choose another output")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextmanager
def disk_errors(path: Path, *, only_full: bool = False) -> Iterator[None]:
    """Turn the system's errors while ``path`` is written (or ``only_full``: a full disk) into a one-line DataError."""
    try:
        yield
    except Exception as problem:
        if isinstance(problem, NoLocksError):
            raise DataError(
                f"{path}: this file system has no locks, which llama2vec needs; mount it with locks (Lustre: -o flock; "
                "NFS: version 4), or choose another output"
            ) from problem
        if is_disk_full(problem):
            raise DataError(f"disk full while writing {path}; free space and run the same command again") from problem
        if _is_too_large(problem):
            limits = "a file is larger than the file system or `ulimit -f` allows"
            raise DataError(f"{path} cannot be written ({limits}); write to another disk, or raise it") from problem
        refused = getattr(problem, "sqlite_errorcode", 0) & 0xFF in _SQLITE_REFUSALS
        if (refused or isinstance(problem, OSError)) and not only_full:
            reason = getattr(problem, "strerror", None) or problem
            raise DataError(f"{path} cannot be written ({reason}); check the folder and the disk") from problem
        raise


def is_disk_full(problem: BaseException) -> bool:
    """Return whether an error of any library means that the disk, or the user's share of it, is full."""
    if isinstance(problem, OSError) and problem.errno:
        return problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return not isinstance(problem, Llama2VecError) and any(words in str(problem) for words in _FULL)


def _is_too_large(problem: BaseException) -> bool:
    number = isinstance(problem, OSError) and problem.errno == errno.EFBIG
    return number or (not isinstance(problem, Llama2VecError) and "File too large" in str(problem))


def apply_umask(folder: Path) -> None:
    """Give files that a library made private the mode of any new file, so that another user's service can read them."""
    probe = folder / f".mode.tmp-{uuid.uuid4().hex}"
    probe.touch()
    mode = probe.stat().st_mode & 0o666
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 == 0o600:
            path.chmod(mode)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; raise an OSError for a pipe, device or folder, where reading could wait for ever."""
    # Without O_NONBLOCK, opening a pipe would already wait for its writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(handle, "rb")


def read_text(path: Path) -> str:
    """Return a regular file's UTF-8 text; raise as :func:`open_regular` and ``bytes.decode``."""
    with open_regular(path) as file:
        return file.read().decode("utf-8")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a regular file in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make moves within a folder survive a power cut; not every file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_replaceable(output: Path) -> None:
    """Raise an OutputExistsError, before the work, for a folder that :func:`put_in_place` cannot put aside."""
    if os.path.ismount(output.resolve()):
        raise OutputExistsError(f"{output} is the root of a volume, which cannot be replaced; name a folder inside it")


def put_in_place(new: Path, target: Path) -> None:
    """Move a file or folder to its place; the old one stays whole until then and is removed afterwards."""
    old = new
    if not (target.is_dir() and any(target.iterdir())):
        os.replace(new, target)
    elif not _rename(new, target, _RENAME_EXCHANGE):
        old = target.with_name(f".old-{target.name}")
        remove(old)
        target.rename(old)
        new.rename(target)
    sync_folder(target.parent)
    remove(old)


def _rename(one: Path, other: Path, flags: int) -> bool:
    """Rename as renameat2 does with these flags; return False where it cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flags) == 0)


def finish_swap(target: Path) -> None:
    """Undo a swap in two steps that a kill cut in between, and remove what a finished one left."""
    old = target.with_name(f".old-{target.name}")
    if os.path.lexists(target):
        remove(old)
    elif os.path.lexists(old):
        old.rename(target)


def remove(path: Path) -> None:
    """Remove a file, folder or link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_tree(source: Path, destination: Path) -> None:
    """Let a file or folder appear in a second place, without copying where the file system can; links stay links."""

    def link(there: str, here: str) -> None:
        try:
            os.link(there, here)
        except OSError:
            shutil.copy2(there, here)

    if source.is_symlink():
        destination.symlink_to(os.readlink(source))
    elif source.is_dir():
        shutil.copytree(source, destination, symlinks=True, copy_function=link)
    elif source.is_file():
        link(str(source), str(destination))

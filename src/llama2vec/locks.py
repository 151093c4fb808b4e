"""Locks that go with their process, for whoever may write something."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: owners are told apart within one process only
    fcntl = None  # type: ignore[assignment]

_held: set[tuple[int, Path]] = set()
_guard = threading.Lock()
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer: NFS without lockd, Lustre without ``-o flock``, and others."""


class NoLocksError(OSError):
    """The file system has no locks."""


class Lock:
    """The right to write something, held through a file that exists only meanwhile and goes with its process.

    The right is a POSIX record lock: it works between processes, containers and machines wherever the file system has
    locks (local disks, NFSv4, Lustre with ``-o flock``). Whatever lies at ``path`` is the leftover of an earlier owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1

    def acquire(self) -> bool:
        """Try to get the lock; return whether it is ours now.

        Raises:
            NoLocksError: The file system has none.
        """
        place = (os.getpid(), self.path.absolute())
        with _guard:
            # A record lock does not keep out the process that has it already.
            if place in _held:
                return False
            while True:
                handle = self._open()
                if not self._take(handle):
                    os.close(handle)
                    return False
                with suppress(FileNotFoundError):  # its owner has removed it since: open the next
                    if os.path.samestat(os.fstat(handle), os.stat(self.path, follow_symlinks=False)):
                        break
                os.close(handle)
            with suppress(OSError):  # the name helps messages; on a full disk the lock holds without it
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self._handle = handle
            _held.add(place)
        return True

    def release(self) -> None:
        """Give the lock back, if it is ours."""
        if self._handle < 0:
            return
        with _guard:
            # Removed while it is held: whoever opened it meanwhile sees that it has gone and makes a new one.
            with suppress(OSError):
                self.path.unlink()
            os.close(self._handle)
            self._handle = -1
            _held.discard((os.getpid(), self.path.absolute()))

    def is_busy(self) -> bool:
        """Return whether somebody else holds the lock."""
        busy = os.path.lexists(self.path) and not self.acquire()
        self.release()
        return busy

    def owner(self) -> str:
        """Say who holds the lock, for a message."""
        # Reading the file would close a handle of it, which gives up its locks in the whole process.
        with _guard:
            if (os.getpid(), self.path.absolute()) in _held:
                return "this process"
        try:
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        except (OSError, ValueError):
            return "another process"

    def _take(self, handle: int) -> bool:
        """Lock the open file; where that fails, it is closed, and removed if no process can lock it."""
        try:
            return try_lock(handle)
        except OSError as error:
            os.close(handle)
            if isinstance(error, NoLocksError):
                with suppress(OSError):
                    self.path.unlink()
            raise

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        while True:
            try:
                handle = os.open(self.path, flags, 0o666)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO):
                    raise
            else:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    return handle
                os.close(handle)
            self.path.unlink(missing_ok=True)  # a link, pipe or socket: nothing that a lock could be


def try_lock(handle: int) -> bool:
    """Try to lock an open file; return whether no other process has it locked.

    Raises:
        NoLocksError: The file system has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno in _NONE:
            raise NoLocksError(error.errno, error.strerror) from error
        raise
    return True

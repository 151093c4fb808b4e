"""Files that one live process holds; the operating system frees them when that process ends, however it ends."""

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


class Lock:
    """The right to write something, held through a file that exists only meanwhile.

    What the file says is for people; the right itself is a POSIX record lock. It works between processes, containers
    and machines wherever the file system has locks (local disks, NFSv4, Lustre with ``-o flock``).

    Args:
        path: The file. Whatever already lies there is taken as the leftover of an earlier owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1

    def acquire(self) -> bool:
        """Try to get the lock; return whether it is ours now.

        Raises:
            OSError: The file cannot be made, or the file system has no locks.
        """
        place = (os.getpid(), self.path.absolute())
        with _guard:
            # A record lock does not keep out the process that has it already.
            if place in _held:
                return False
            while True:
                handle = self._open()
                if not self._lock(handle):
                    os.close(handle)
                    return False
                if self._is_still_there(handle):
                    break
                os.close(handle)
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
        if not os.path.lexists(self.path):
            return False
        if self.acquire():
            self.release()
            return False
        return True

    def owner(self) -> str:
        """Say who holds the lock, for a message."""
        try:
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        except (OSError, ValueError):
            return "another process"

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

    def _lock(self, handle: int) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _is_still_there(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

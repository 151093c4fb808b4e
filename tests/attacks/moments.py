"""The moments at which a child changes files, counted, and a kill before one of them."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.utime", "os.chmod"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EXCHANGE = "renameat2"


class Moments:
    """Counts a child's changes of files and, if asked, kills it before one of them."""

    def __init__(self, kill_at: int = 0) -> None:
        self._kill_at, self._shared = kill_at, mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        """How many changes the child has made, or was about to make."""
        return int.from_bytes(self._shared[:8], "little")

    def watch(self) -> None:
        """Start counting, in the child."""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & _WRITING and str(arguments[0]) != os.devnull
        else:
            changes = event in _CHANGES or (event == "ctypes.dlsym" and arguments[1] == _EXCHANGE)
        if changes:
            number = self.count + 1
            self._shared[:8] = number.to_bytes(8, "little")
            if number == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

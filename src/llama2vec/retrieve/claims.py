"""Who writes what, when several processes or machines write one folder: claim files with a heartbeat."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 10.0


class Claim:
    """The sole right to write something: a file that holds who has it, and whose time shows that they live.

    A claim counts as dead when its time is older than the timeout, or its process on this machine has gone.
    """

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self.path = path
        self.timeout_seconds = timeout_seconds
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self) -> bool:
        """Try to get the claim, from a dead holder if need be; return whether it is ours now."""
        for _ in range(2):
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                if not self._remove_if_dead():
                    return False
                continue
            holder = {"host": host_name(), "pid": os.getpid(), "time": time.time(), "token": self.token}
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(holder, file)
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
            self._heart = threading.Thread(target=self._beat, daemon=True)
            self._heart.start()
            return True
        return False

    def release(self) -> None:
        """Give the claim back, if it is ours."""
        if self._heart is None:
            return
        self._stop.set()
        self._heart.join()
        if self.is_held():
            self.path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Return whether the claim is ours and nobody took it over."""
        seen = self._look()
        return seen is not None and seen[0].get("token") == self.token

    def is_busy(self) -> bool:
        """Return whether somebody who lives has the claim."""
        seen = self._look()
        return seen is not None and not self._is_dead(seen)

    def _beat(self) -> None:
        while not self._stop.wait(min(_HEARTBEAT_SECONDS, self.timeout_seconds / 4)):
            with suppress(OSError):
                if self.is_held():
                    os.utime(self.path)

    def _look(self, path: Path | None = None) -> tuple[dict[str, Any], int, float] | None:
        """Return (holder, inode, time of the last sign of life) of a claim file, None without one."""
        try:
            with open(path or self.path, encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                content = file.read()
        except FileNotFoundError:
            return None
        try:
            holder = json.loads(content)
        except ValueError:  # taken this very moment, or its holder was killed before writing its name
            holder = {}
        return holder, status.st_ino, status.st_mtime

    def _is_dead(self, seen: tuple[dict[str, Any], int, float]) -> bool:
        holder, _, alive_at = seen
        if time.time() - alive_at > self.timeout_seconds:
            return True
        return os.name == "posix" and holder.get("host") == host_name() and not is_running(holder["pid"])

    def _remove_if_dead(self) -> bool:
        """Return whether the way is free for another try."""
        seen = self._look()
        if seen is None:
            return True
        if not self._is_dead(seen):
            return False
        aside = self.path.with_name(f"{self.path.name}.stale-{self.token}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        is_the_one = self._look(aside) == seen
        if not is_the_one:
            # Between the look and the rename a living process took the claim: give it back.
            with suppress(OSError):
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)
        return is_the_one


def host_name() -> str:
    """Name the machine; containers that share a name have their own process numbers, so those count too."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine lives; POSIX only, elsewhere asking would end it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""A full disk: one clear line and exit code 2; the older output stays; the same command finishes once there is room.

Where the system lets us mount one, ``disk`` is a file system in memory with too few pages for the result, so that
whatever writes (Python, torch, safetensors, FAISS) meets the real error. Elsewhere no file may grow beyond a limit
(RLIMIT_FSIZE).
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from .children import Child
from .commands import OUT, PRINTERS, WRITERS, Command, References
from .trees import differences, tree

_NEW_NAMES, _NEW_USERS = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_PRIVATE, _RECURSIVE, _REMOUNT, _DETACH = 1 << 18, 1 << 14, 32, 2  # MS_PRIVATE, MS_REC, MS_REMOUNT, MNT_DETACH
_PAGE = 4096
_can_mount = False


def private_mounts() -> None:
    """Let this process mount file systems that nobody else sees and that go with it, if the system can do that."""
    global _can_mount
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_NAMES) != 0:
        if libc.unshare(_NEW_NAMES | _NEW_USERS) != 0:
            return
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    _can_mount = libc.mount(b"none", b"/", None, _PRIVATE | _RECURSIVE, None) == 0


def _mount(place: Path, pages: int, flags: int = 0) -> bool:
    options = f"size={pages * _PAGE}".encode()
    done: int = ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, options)
    return done == 0


def _unmount(place: Path) -> None:
    ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(place), _DETACH)


class DiskFull:
    """The attack: room for less than the result."""

    name = "disk-full"

    def __init__(self, references: References) -> None:
        self._references, self._site = references, references.site

    def attack(self, draw: random.Random) -> tuple[Command, str | None]:
        """Make one attack; return the command and what went wrong, or None."""
        if draw.random() < 0.1:
            command = draw.choice(PRINTERS)
            return command, self._printing(command)
        command = draw.choice(WRITERS)
        self._references.of(command)
        place = command.prepare(self._site)
        disk = place / "disk"
        pages = draw.randint(1, max(1, self._needs(command) - 1))
        if not _can_mount:
            return command, self._limited(command, draw)
        aside = place / "aside"
        disk.rename(aside)
        disk.mkdir()
        if not _mount(disk, 1 << 16):
            raise OSError("cannot mount")
        try:
            shutil.copytree(aside, disk, dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(aside)
            used = os.statvfs(disk)
            pages += used.f_blocks - used.f_bfree
            if not _mount(disk, pages, _REMOUNT):
                raise OSError("cannot shrink")
            return command, self._full(command, lambda: _mount(disk, 1 << 16, _REMOUNT))
        finally:
            _unmount(disk)

    def _needs(self, command: Command) -> int:
        """Return the pages that the result takes beyond what lies there before."""
        files = self._references.of(command).files
        place = self._site.place
        if not hasattr(self, "_pages"):
            self._pages: dict[str, int] = {}
        key = " ".join(command.argv) + str(command.before)
        if key not in self._pages:
            command.prepare(self._site)
            child = Child(command.argv, place, self._site.log).end()
            assert child.code == 0
            sizes = [
                (place / path).lstat().st_size
                for path in files
                if path.startswith("disk/") and (place / path).is_file()
            ]
            self._pages[key] = sum(-(-size // _PAGE) for size in sizes)
            command.prepare(self._site)
        return self._pages[key]

    def _full(
        self, command: Command, make_room: Callable[[], object], prepare: Callable[[], object] = lambda: None
    ) -> str | None:
        reference, place = self._references.of(command), self._site.place
        before = tree(place)
        ended = Child(command.argv, place, self._site.log, prepare).end()
        after = tree(place)
        if ended.code == 0:  # it fitted after all: a part of what lay there was replaced
            wrong = differences(reference.files, after)
            return f"exit 0 on a full disk, but {wrong[:5]}" if wrong else None
        if ended.trouble or ended.code != 2:
            return f"exit code {ended.code}: {ended.trouble or ended.err[-300:]}"
        changed = [path for path in before if not path.startswith("disk") and after.get(path) != before[path]]
        if command.keeps_old:
            changed += [path for path in before if path.startswith(OUT) and after.get(path) != before[path]]
        if changed:
            return f"lost on a full disk: {changed[:5]}"
        litter = [path for path in after if ".tmp-" in path or ".lock-" in path]
        if litter:
            return f"left on a full disk: {litter[:5]}"
        make_room()
        ended = Child(command.argv, place, self._site.log).end()
        if ended.trouble or ended.code != 0:
            return f"with room again, the same command ended with {ended.code}: {ended.trouble or ended.err[-300:]}"
        wrong = differences(reference.files, tree(place))
        return f"with room again, the same command leaves {wrong[:6]}" if wrong else None

    def _limited(self, command: Command, draw: random.Random) -> str | None:
        sizes = [path.stat().st_size for path in self._site.clean.rglob("*") if path.is_file()]
        most = draw.randint(1, max(sizes))

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

        return self._full(command, lambda: None, limit)

    def _printing(self, command: Command) -> str | None:
        from .invocations import into_full_device

        command.prepare(self._site)
        before = tree(self._site.place)
        ended = Child(command.argv, self._site.place, self._site.log, into_full_device).end()
        if ended.trouble or ended.code != 2:
            return f"printing to a full disk ended with {ended.code}: {ended.trouble or ended.err[-300:]}"
        return None if tree(self._site.place) == before else "printing to a full disk changed files"

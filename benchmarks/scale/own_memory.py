"""The memory of its own that a process takes: RssAnon, which leaves out cached pages of files."""

from __future__ import annotations

import threading
from pathlib import Path


class Peak:
    """Samples the memory of its own of this process while its block runs; ``mib`` is the peak above the start."""

    def __init__(self) -> None:
        self.before = self.most = self.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def now() -> int:
        """Return the bytes at this moment."""
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise OSError("this system does not tell a process's own memory; run it on Linux")

    @property
    def mib(self) -> float:
        """The peak so far above what the process had at the start, in MiB."""
        self.most = max(self.most, self.now())
        return round((self.most - self.before) / 2**20, 1)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self.now())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.most = max(self.most, self.now())

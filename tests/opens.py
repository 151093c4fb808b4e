"""Count how often a file is opened for reading."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path


class Opens:
    """Counts from when it is made, for every way that Python has of opening a file."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        # An audit hook stays for the rest of the process; one without a counter costs nothing.
        sys.addaudithook(self._note)

    def of(self, path: Path) -> int:
        """Return how often the file was opened."""
        return self._counts[str(path.resolve())]

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        # `open` with a number wraps a descriptor that `os.open` reported before.
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            self._counts[str(Path(str(arguments[0])).resolve())] += 1

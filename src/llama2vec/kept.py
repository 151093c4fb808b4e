"""What an output keeps beside itself, so that a later call resumes from it, such as ``OUTPUT.questions-…``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, Protocol

from llama2vec.artifact import Kind, discard
from llama2vec.files import disk_errors, file_sha256, write_atomic
from llama2vec.manifest import digest

logger = logging.getLogger(__name__)

KEPT_QUESTIONS, KEPT_STORE, KEPT_SCORES = ".questions-", ".store-", ".scores-"
"""They stand between an output's name and a hash of what made the kept file or folder."""


def kept_path(output: Path, mark: str, made_by: object) -> Path:
    """Return where an output keeps something until it is written; ``made_by`` is JSON data that decides the content."""
    return output.with_name(f"{output.name}{mark}{digest(made_by)[:12]}")


def discard_kept(output: Path, mark: str, kind: Kind | None = None, *, but: Path | None = None) -> None:
    """Remove all files that an output has kept under a mark, or all folders of a kind; ``but`` stays.

    What cannot be removed stays, because the output is whole without it.
    """
    with suppress(OSError):
        for left in output.parent.glob(f"{escape(output.name)}{mark}*"):
            if but is not None and left.name == but.name:
                continue
            if kind is None:
                left.unlink(missing_ok=True)
            else:
                discard(left, kind)


def note_replaced(path: Path, output: Path) -> None:
    """Note in a kept file, which :class:`KeptScores` has opened, which older output it will replace, if any.

    Raises:
        DataError: The file cannot be written.
    """
    if output.is_file():
        keep(path, [_replaced(output)])


def discard_left(output: Path, mark: str) -> None:
    """Remove the files that an output has kept under a mark, unless they were kept to replace this very output.

    A kill between an output and the end of its command leaves such files, and so does a second process that was killed.
    """
    with suppress(OSError):
        left = list(output.parent.glob(f"{escape(output.name)}{mark}*"))
        if left and output.is_file():
            noted = json.dumps(_replaced(output)).encode()
            for path in left:
                if noted not in path.read_bytes().split(b"\n"):
                    path.unlink(missing_ok=True)


def _replaced(output: Path) -> list[object]:
    """Return an entry that :class:`KeptScores` reads as scores of no pair."""
    return [f"replaces {file_sha256(output)}", []]


def read_kept(path: Path, usable: Callable[[Sequence[Any]], int] = len) -> list[Any]:
    """Return the JSON lines that an earlier call kept in a file, and leave only these there.

    A kill cuts the last line and a power cut leaves zeros: everything from such a line on is dropped.

    Args:
        path: The file, or where it will be.
        usable: Returns with how many of the whole lines, from the first on, a call can resume.

    Raises:
        DataError: The file cannot be written.
    """
    content = path.read_bytes() if path.is_file() else b""
    lines, read = content.split(b"\n"), list[Any]()
    with suppress(ValueError):
        for line in lines:
            read.append(json.loads(line))
    count = usable(read)
    whole = b"".join(line + b"\n" for line in lines[:count])
    if whole != content:
        with disk_errors(path):
            write_atomic(path, whole)
    return read[:count]


def keep(path: Path, entries: Iterable[object]) -> None:
    """Add JSON lines to a kept file; raise a DataError where it cannot be written."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(entry) + "\n" for entry in entries))


class Scorer(Protocol):
    """Whatever scores pairs of a query and a passage."""

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> Sequence[Iterable[float]]:
        """Return, for each query, the scores of its own passages."""


class KeptScores:
    """A scorer that writes its scores to a file: after a kill, a call that asks the same resumes from them.

    The file has a line per batch, with a hash of its texts, since a model's last bits depend on the batch.

    Args:
        scorer: Is asked for what the file does not have.
        path: The file, as of :func:`kept_path`.

    Raises:
        DataError: The file cannot be written.
    """

    def __init__(self, scorer: Scorer, path: Path) -> None:
        self._scorer, self._path = scorer, path
        self._known = {entry[0]: entry[1] for entry in read_kept(path, _leading_scores)}
        if self._known:
            logger.info("resuming from the scores in %s", path)

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """See :class:`Scorer`."""
        key = digest([queries, passages])
        found: list[list[float]] | None = self._known.get(key)
        if found is None:
            found = [[float(score) for score in scores] for scores in self._scorer.scores(queries, passages)]
            keep(self._path, [[key, found]])
        return found


def _leading_scores(entries: Sequence[Any]) -> int:
    """Return how many entries, from the first on, have a key and scores."""
    for place, entry in enumerate(entries):
        if not (isinstance(entry, list) and [type(part) for part in entry] == [str, list]):
            return place
    return len(entries)

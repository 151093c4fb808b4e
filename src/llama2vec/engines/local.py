"""Engines without a server keep their data in a folder: which folder is theirs, and what may not become it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llama2vec.engines.engine import masked_line, unreachable
from llama2vec.errors import ConfigError, DataError, EngineError, Llama2VecError, OutputExistsError
from llama2vec.files import disk_errors

_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")
_MARKS: dict[str, Callable[[str], bool]] = {
    "lancedb": lambda name: name.endswith(".lance"),
    "qdrant": lambda name: name == "meta.json",
    "milvus": lambda name: name in ("LOCK", "collections", "databases"),  # One after the other: a kill may leave some
}
"""For each engine that can do without a server, which entry of a folder shows that the data is its own."""


def local_path(kind: str, at: str) -> Path | None:
    """Return the folder that an address names; None for a server.

    >>> local_path("milvus", "passages.db"), local_path("milvus", "http://localhost:19530")
    (PosixPath('passages.db'), None)
    """
    is_local = kind in _MARKS and "://" not in at and (kind != "milvus" or at.endswith(".db"))
    return Path(at) if is_local else None


def check_address(kind: str, at: str) -> None:
    """Refuse an address whose folder would be made or changed by mistake.

    Raises:
        ConfigError: The address is empty, or that of a server without its scheme.
        OutputExistsError: The folder or file holds something else than the engine's data.
        EngineError: The folder cannot be read.
    """
    if not at.strip():
        raise ConfigError(f"the address of {kind} is empty; give one as llama2vec export --help shows")
    path = local_path(kind, at)
    if path is None:
        return
    with _folder_errors(path):
        is_there = path.exists()
        names = [one.name for one in path.iterdir()] if path.is_dir() else None
    if _PORT.fullmatch(at) and not is_there:
        raise ConfigError(f"{at}: {kind} would take this for a folder; write http://{at} for a server, or ./{at}")
    if not is_there:
        return
    if names is None or (any(not name.startswith(".") for name in names) and not any(map(_MARKS[kind], names))):
        raise OutputExistsError(f"{at}: exists and does not hold data of {kind}; choose another place")


def check_there(kind: str, at: str) -> None:
    """Raise an EngineError if an address names a folder that does not exist, which opening it would make."""
    path = local_path(kind, at)
    if path is None:
        return
    with _folder_errors(path):
        is_there = path.exists()
    if not is_there:
        raise EngineError(f"{at}: no data of {kind} lies here; correct the path, or make it with `llama2vec export`")


@contextmanager
def _folder_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about a folder into an EngineError, which a service outlives."""
    try:
        with disk_errors(path):
            yield
    except DataError as error:
        raise EngineError(str(error)) from error


@contextmanager
def opening_errors(name: str, kind: str, at: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what an engine's client raises while it opens an address into one line.

    Args:
        name: That of the engine in messages.
        kind: As in ``--to``.
        at: Address or folder.
        errors: What the client raises.

    Raises:
        EngineError: The server does not answer, or the folder cannot be made, read or opened.
    """
    path = local_path(kind, at)
    try:
        if path is None:
            yield
            return
        with _folder_errors(path):
            yield
    except Llama2VecError:
        raise
    except errors as error:
        if path is None:
            raise unreachable(f"{name} at {at}", error) from error
        raise EngineError(f"{name} cannot open {at} ({masked_line(error)}); check the folder and the disk") from error

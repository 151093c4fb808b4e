"""Engines without a server keep their data in a folder: which folder is theirs, and what may not become it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from llama2vec.errors import ConfigError, EngineError, OutputExistsError

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
    """
    if not at.strip():
        raise ConfigError(f"the address of {kind} is empty; give one as llama2vec export --help shows")
    path = local_path(kind, at)
    if path is None:
        return
    if _PORT.fullmatch(at) and not path.exists():
        raise ConfigError(f"{at}: {kind} would take this for a folder; write http://{at} for a server, or ./{at}")
    if not path.exists():
        return
    names = [one.name for one in path.iterdir()] if path.is_dir() else None
    if names is None or (any(not name.startswith(".") for name in names) and not any(map(_MARKS[kind], names))):
        raise OutputExistsError(f"{at}: exists and does not hold data of {kind}; choose another place")


def check_there(kind: str, at: str) -> None:
    """Raise an EngineError if an address names a folder that does not exist, which opening it would make."""
    path = local_path(kind, at)
    if path is not None and not path.exists():
        raise EngineError(f"{at}: no data of {kind} lies here; correct the path, or make it with `llama2vec export`")

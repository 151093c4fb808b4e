"""What scripts do about a user's mistake: one line and exit code 2, and no file replaced that is not theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama2vec.artifact import read_object
from llama2vec.errors import ConfigError, Llama2VecError, OutputExistsError
from llama2vec.files import write_json

_FORMAT_FILE = "number-format.json"


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the script with the line of a Llama2VecError."""
    try:
        yield
    except Llama2VecError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def read_own(path: Path, kinds: Mapping[str, type], noun: str) -> dict[str, Any] | None:
    """Return the JSON object that an earlier call wrote, or None if the file is missing.

    Raises:
        OutputExistsError: The file cannot be read, or lacks one of the keys with values of these ``kinds``.
    """
    if not path.exists():
        return None
    found = read_object(path)
    if found is None or not all(isinstance(found.get(name), kind) for name, kind in kinds.items()):
        raise OutputExistsError(f"{path} does not hold {noun}; move it away or choose another path")
    return found


def results_so_far(path: Path, settings: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return what earlier calls wrote, or a start: the ``settings`` (JSON data), and an object of results in ``part``.

    The folder of ``path`` is made.

    Raises:
        OutputExistsError: The file does not hold results.
        ConfigError: They were made with other settings, and one file holds results of one model and one way alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found = read_own(path, {part: dict}, "results of this command") or {"settings": dict(settings), part: {}}
    before = found.get("settings") or {}
    if differs := [name for name in {**settings, **before} if before.get(name) != settings.get(name)]:
        raise ConfigError(f"{path} was made with other settings ({', '.join(differs)}); choose another --output")
    return found


def check_format(folder: Path, dtype: str) -> None:
    """Let a folder keep the vectors of one number format alone; the first call writes down which.

    Raises:
        ConfigError: The vectors that the folder keeps were computed in another format.
    """
    noted = (read_object(folder / _FORMAT_FILE) or {}).get("dtype")
    if noted and noted != dtype:
        raise ConfigError(
            f"{folder} keeps vectors computed in {noted}, and this model computes in {dtype}; choose another"
        )
    if not noted:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FORMAT_FILE, {"dtype": dtype})

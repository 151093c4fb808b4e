"""What every results file says of where its numbers come from."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.paths import REPOSITORY
from llama2vec.data.corpus.passages import files_fingerprint
from llama2vec.manifest import code_version, machine, versions


def made_by(packages: Iterable[str] = (), **facts: Any) -> dict[str, Any]:
    """Return the machine, the versions, the commit and the command of this run.

    Args:
        packages: Packages whose versions are named too, where they are installed.
        facts: What else to say of the machine.
    """
    found = versions()
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {
        "machine": {**machine(), **facts},
        "versions": found,
        "code": code_version(),
        "command": command(),
    }


def command() -> str:
    """Return the command of this process as a reader can run it from the root of the checkout.

    For a module, ``sys.argv`` begins with the path of its file on this machine. Absolute paths among the arguments are
    made relative if they lie in the checkout or beside it; of others the last name stays.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    return shlex.join([*started, *map(_portable, sys.argv[1:])])


def _portable(argument: str) -> str:
    option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
    path = Path(value)
    if not path.is_absolute():
        return argument
    beside = path.is_relative_to(REPOSITORY.parent)
    return option + equals + (Path(os.path.relpath(path, REPOSITORY)).as_posix() if beside else path.name)


def data_hash(path: Path) -> str:
    """Return a hash of a file, or of all files of a folder, wherever it lies."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return files_fingerprint(path if path.is_dir() else path.parent, files)

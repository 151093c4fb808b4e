"""What every results file says of where its numbers come from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llama2vec.data.corpus import files_fingerprint
from llama2vec.manifest import code_version, machine, versions


def made_by() -> dict[str, Any]:
    """Return the machine, the versions, the commit and the command of this run."""
    return {"machine": machine(), "versions": versions(), "code": code_version(), "command": " ".join(sys.argv)}


def data_hash(path: Path) -> str:
    """Return a hash of a file, or of all files of a folder, wherever it lies."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return files_fingerprint(path if path.is_dir() else path.parent, files)

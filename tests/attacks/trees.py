"""What a folder holds, in a form that two runs of one command must share to the last bit.

Times, and what else belongs to a run and not to its result, are taken out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_OF_THE_RUN = frozenset(["seconds", "content_sha256", "started", "finished_at", "machine", "code", "created", "date"])
_DURATION = re.compile(r"\b\d[\d,.]*\s?(?:s|ms|min|seconds|minutes)\b|seconds \| [\d,.]+|code(?: version)? \| \S+|TIME")


def tree(root: Path, skip: Iterable[str] = ()) -> dict[str, str]:
    """Return relative path → digest of the content; folders, links and odd files by their kind."""
    found: dict[str, str] = {}
    skipped = set(skip)
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        folders[:] = sorted(name for name in folders if os.path.normpath(f"{here}/{name}") not in skipped)
        for name in (*folders, *files):
            path, key = Path(folder, name), os.path.normpath(f"{here}/{name}")
            if key not in skipped:
                found[key] = "folder" if name in folders else digest(path)
    return found


def digest(path: Path) -> str:
    """Return what a file holds; times are taken out of our own JSON and pages."""
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        return f"special {stat.S_IFMT(mode):o}"
    if path.name == "training_args.bin":  # torch's own note of where the training runs
        return "training arguments"
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        content = _without_times(content)
    elif path.suffix in (".md", ".html"):
        content = _DURATION.sub("TIME", content.decode(errors="replace")).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def stable_text(text: str) -> str:
    """Return printed text without durations."""
    return _DURATION.sub("TIME", text)


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the paths that differ, with what is wrong with each."""
    return [
        f"{path} {'missing' if path not in found else 'left over' if path not in expected else 'differs'}"
        for path in sorted({*expected, *found})
        if expected.get(path) != found.get(path)
    ]


def _without_times(content: bytes) -> bytes:
    try:
        lines = [json.loads(content)]
    except RecursionError:
        return content
    except ValueError:
        try:
            lines = [json.loads(line) for line in content.splitlines() if line.strip()]
        except ValueError:
            return content
    return "\n".join(json.dumps(_scrubbed(line)) for line in lines).encode()


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _scrubbed(inner) for key, inner in value.items() if key not in _OF_THE_RUN}
    return [_scrubbed(inner) for inner in value] if isinstance(value, list) else value

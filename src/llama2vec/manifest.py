"""What made an artifact: settings, inputs, versions, seed, machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llama2vec.errors import raise_unless_missing

MANIFEST_FILE = "manifest.json"
"""What made a trained encoder."""
RUN_RECORD, RUN_FORMAT = "run.json", "llama2vec-run"
"""Which stages a run has finished, and what that file calls its format."""
SEEDS_FILE = "seeds.json"
"""What the seeds of one training, each in a folder of its own, agree on."""
SEAL = "content_sha256"
"""The key of an object's own hash."""
_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "faiss-cpu", "bm25s", "ir-measures")


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if it is missing, irregular or holds something else; else an OSError."""
    try:
        content = json.loads(path.read_bytes()) if stat.S_ISREG(path.stat().st_mode) else None
    except (OSError, ValueError, RecursionError) as error:
        raise_unless_missing(error)
        return None
    return content if isinstance(content, dict) else None


def canonical_json(data: object) -> str:
    """Return one text for equal data: sorted keys, no spaces.

    >>> canonical_json({"b": 1, "a": [2]})
    '{"a":[2],"b":1}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(data: object) -> str:
    """Return the SHA-256 in hex of data's canonical JSON."""
    return hashlib.sha256(canonical_json(data).encode(errors="surrogatepass")).hexdigest()


def sealed(data: Mapping[str, Any], key: str = SEAL) -> dict[str, Any]:
    """Return an object with its hash under a key; a hash that already stands there is replaced.

    >>> unsealed(sealed({"steps": 6}))
    {'steps': 6}
    """
    content = {name: value for name, value in data.items() if name != key}
    return {**content, key: digest(content)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was sealed; None where it has changed since. Files of earlier versions have no seal."""
    data = {key: value for key, value in content.items() if key != SEAL}
    return data if content.get(SEAL, digest(data)) == digest(data) else None


def first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> tuple[str, object, object] | None:
    """Return the first setting that differs, dotted, with its old and new value; None where all agree.

    >>> first_difference({"source": {"corpus": "x"}}, {"source": {"corpus": "y"}})
    ('source.corpus', 'x', 'y')
    """
    for key in sorted({*old, *new}):
        there, now = old.get(key), new.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            inner = first_difference(there, now, f"{prefix}{key}.")
            if inner:
                return inner
        elif there != now:
            return f"{prefix}{key}", there, now
    return None


def plan_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say what makes two plans differ, for a message: the first setting, else the first input."""
    before, after = ({**plan, "hash": ""} for plan in (old, json.loads(canonical_json(new))))
    differs = first_difference(before.get("settings", {}), after.get("settings", {}))
    name, there, now = differs or first_difference(before, after) or ("plan", None, None)
    is_hash = [isinstance(value, str) and len(value) >= 32 and " " not in value for value in (there, now)]
    if all(is_hash):
        return f"{name}: the content differs"
    if any(is_hash) and None in (there, now):
        return f"{name}: only {'there' if now is None else 'now'}"
    return f"{name}: {there!r} there, {now!r} now"


def same_plan(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two plans make equal artifacts."""
    # 32 and 32.0 are the same setting, and have different hashes.
    old_plan, new_plan = ({**json.loads(canonical_json(plan)), "hash": ""} for plan in (there, now))
    return bool(old_plan == new_plan)


def package_version() -> str:
    """Return the installed version of llama2vec."""
    try:
        return version("llama2vec")
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the installed libraries that decide numbers."""
    found = {"python": platform.python_version(), "llama2vec": package_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def code_version() -> str:
    """Return the git commit of a source checkout (``-dirty`` with uncommitted changes), else the package version."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return package_version()


def machine() -> dict[str, Any]:
    """Describe this machine: processor, cores, memory in GiB."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {"processor": name, "cores": os.cpu_count(), "memory_gib": memory, "system": platform.system()}


def build_manifest(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what made an artifact: resolved settings, fingerprints of inputs by name, results, versions, machine."""
    made = {"stage": stage, "settings": dict(settings), "inputs": dict(inputs), "results": dict(results)}
    return {**made, "versions": versions(), "code": code_version(), "machine": machine()}

"""What made an artefact: settings, inputs, versions, seed; and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llama2vec

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "faiss-cpu", "bm25s", "ir-measures")


def canonical_json(data: object) -> str:
    """Return one text for equal data: sorted keys, no spaces.

    >>> canonical_json({"b": 1, "a": [2]})
    '{"a":[2],"b":1}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(data: object) -> str:
    """Return the SHA-256 in hex of data's canonical JSON."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that decide numbers, where installed."""
    found = {"python": platform.python_version(), "llama2vec": llama2vec.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code_version() -> str:
    """Return the git commit of a source checkout (``-dirty`` with uncommitted changes), else the package version."""
    folder = Path(llama2vec.__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return llama2vec.__version__
    return commit.stdout.strip()


def machine() -> dict[str, Any]:
    """Describe this machine: processor, cores, memory in GiB."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {"processor": name, "cores": os.cpu_count(), "memory_gib": memory, "system": platform.system()}


def build_manifest(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Put together what made an artefact.

    Args:
        stage: ``adapt``, ``encode``, …
        settings: The resolved settings, defaults included.
        inputs: Name → fingerprint of each input.
        results: Facts of the run: seconds, steps, final losses.
    """
    return {
        "stage": stage,
        "settings": dict(settings),
        "inputs": dict(inputs),
        "results": dict(results),
        "versions": versions(),
        "code": code_version(),
        "machine": machine(),
    }


def write_json(path: Path, data: object) -> None:
    """Write JSON so that the file is there whole or not at all, also after a power cut."""
    write_atomic(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to disk, and move it into place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""An unprivileged user, as in a container: model and index belong to root and are read-only, HOME does not exist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from encoders import FLOAT32
from running import CommandLine

from llama2vec.model.encoder import Encoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None,
        reason="needs root and setpriv",
    ),
]
CPU = ["--dtype", "float32", "--device", "cpu"]
_READ = "-all,+dac_read_search"  # Python itself may lie in a folder that only root reads
AS_USER = [
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    *(f"--{kind}={_READ}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
    sys.executable, "-m", "llama2vec.cli",
]  # fmt: skip


@pytest.fixture
def readable(llama_folder: Path, corpus_file: Path, command_line: CommandLine) -> Iterator[Path]:
    """Give a folder with a model, a store and an index that everybody may read and only root may write."""
    with tempfile.TemporaryDirectory(prefix="llama2vec-container-") as made:
        folder = Path(made)
        Encoder.load(llama_folder, settings=FLOAT32).save(folder / "model")
        assert command_line("encode", folder / "model", corpus_file, "-o", folder / "store", *CPU).code == 0
        assert command_line("index", folder / "store", "-o", folder / "index", "--bm25").code == 0
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, "HOME": "/nonexistent", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def as_user(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*AS_USER, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False, cwd="/")


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def test_search_and_verify_write_nothing(readable: Path) -> None:
    before = content(readable)
    found = as_user("search", readable / "index", "the castle of the river", *CPU)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("  1. ")
    assert as_user("verify", readable / "model", "--device", "cpu").returncode == 0
    assert content(readable) == before
    assert not Path("/nonexistent").exists()


def test_what_must_be_written_fails_in_one_line(readable: Path, corpus_file: Path) -> None:
    before = content(readable)
    for command in (
        ("index", readable / "store", "-o", readable / "more", "--bm25"),
        ("index", readable / "store", "-o", readable / "index", "--kind", "faiss-flat", "--overwrite"),
        ("encode", readable / "model", corpus_file, "-o", readable / "store", "--half", "--overwrite", *CPU),
    ):
        failed = as_user(*command)
        assert failed.returncode == 2
        line = failed.stderr.splitlines()[-1]
        assert line.startswith("llama2vec: ")
        assert "cannot be written (Permission denied)" in line
        assert "Traceback" not in failed.stderr
    assert content(readable) == before


def test_the_service_answers_and_writes_nothing(readable: Path) -> None:
    before = content(readable)
    command = [*AS_USER, "serve", str(readable / "index"), "--port", "0", *CPU]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as running:
        try:
            assert running.stdout is not None
            url = running.stdout.readline().split()[-1]
            for mode in ("dense", "bm25", "hybrid"):
                answer = httpx.get(f"{url}/search", params={"q": "castle river", "mode": mode}, timeout=60)
                assert answer.json()["hits"], mode
            status = Path(f"/proc/{running.pid}/status")
            if status.exists():
                assert status.read_text().partition("Uid:")[2].split()[0] == "65534"
        finally:
            running.terminate()
            ends = time.monotonic() + 30
            while running.poll() is None and time.monotonic() < ends:
                time.sleep(0.1)
            running.kill()
        assert running.returncode == 0
    assert content(readable) == before

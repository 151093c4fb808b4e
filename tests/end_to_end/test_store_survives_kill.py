"""A store written by processes that are killed, or that share the work, has the bytes of an uninterrupted one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama2vec.retrieve.store.reader import VectorStore

WRITER = """
import hashlib, sys, time
import numpy as np
from llama2vec.records import Passage
from llama2vec.retrieve.store.writer import write_store

class SlowHashEncoder:
    dimension, contract_hash = 8, "c0ffee"
    def encode_passages(self, passages):
        time.sleep(float(sys.argv[2]))
        digests = [hashlib.sha256(passage.text.encode()).digest()[:8] for passage in passages]
        vectors = np.array([np.frombuffer(digest, np.uint8) for digest in digests], dtype=np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

store = write_store(lambda: (Passage(f"p{n}", f"body {n}") for n in range(195)), SlowHashEncoder(), sys.argv[1],
                    source={"corpus": "195"}, shard_size=10)
print(len(store))
"""


def start(folder: Path, sleep_seconds: float = 0.02) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(sleep_seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, "195"), err


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder, 0))
    return files(folder)


@pytest.mark.slow
def test_a_writer_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    moments = random.Random(0)
    killed = 0
    for _ in range(6):
        process = start(tmp_path)
        # Wait for the work to begin, so that the kill hits the writing and not Python's start.
        began, before = time.monotonic(), set(tmp_path.iterdir())
        while process.poll() is None and set(tmp_path.iterdir()) == before and time.monotonic() - began < 20:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.communicate()
        killed += process.returncode != 0
    assert killed >= 3
    finish(start(tmp_path))
    assert files(tmp_path) == uninterrupted
    VectorStore.open(tmp_path, verify=True)


@pytest.mark.slow
def test_three_writers_at_once_one_of_them_killed_end_with_the_same_bytes(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    folder = tmp_path / "shared"
    writers = [start(folder, 0.1) for _ in range(3)]
    deadline = time.monotonic() + 20
    while not list(folder.glob("shard-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    writers[0].kill()
    writers[0].communicate()
    for writer in writers[1:]:
        finish(writer)
    assert files(folder) == uninterrupted

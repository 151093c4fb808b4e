"""`encode --engine ray` on a cluster of three nodes: the bytes of the plain command, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import made_up_sentence

import llama2vec

SHARDS, SHARD_SIZE = 60, 40
SECONDS = 300.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one CPU each; the first is the head."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough shards that a kill falls into the middle; the last one is short."""
    draw, path = random.Random(3), tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [
        {"_id": f"d{number}", "title": "", "text": " ".join(made_up_sentence(draw) for _ in range(1 + number % 4))}
        for number in range(SHARDS * SHARD_SIZE - 3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def encode(model: Path, corpus: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a process of its own, with as many threads as a Ray worker of one CPU has.

    Another number of threads may add up a product in another order, and so change a last bit.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(output: Path, *options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "llama2vec.cli", "encode", model, corpus, "-o", output]
        words = [*command, "--shard-size", SHARD_SIZE, "--dtype", "float32", *options]
        return subprocess.Popen(
            list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    return start


@pytest.fixture(scope="module")
def plain(encode: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the store that the plain command writes."""
    output = tmp_path_factory.mktemp("stores") / "store"
    finished(encode(output))
    return contents(output)


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out
    return out


def refused(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, out
    assert "Traceback" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("llama2vec: ")]
    return line


def done_shards(store: Path, least: int, process: subprocess.Popen[str]) -> dict[str, int]:
    """Wait until so many shards are finished; return when each was written."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = {path.name: path.stat().st_mtime_ns for path in store.glob("shard-*.json")}
        if len(found) >= least:
            assert len(found) < SHARDS // 2, "the kill would come too late to show anything"
            return found
        time.sleep(0.01)
    pytest.fail(f"{least} shards were not written: {process.communicate(timeout=SECONDS)[0]}")


def frozen_worker(node: Any, process: subprocess.Popen[str]) -> Any:
    """Wait until a worker of a node encodes a shard, and stop it there: its call cannot end before the node does.

    Ray names a worker's process after the call, for as long as the call runs.
    """
    import psutil

    (raylet,) = node.all_processes["raylet"]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        for child in psutil.Process(raylet.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if encodes(child):
                    child.suspend()
                    if encodes(child):
                        return child
                    child.resume()
        time.sleep(0.01)
    pytest.fail(f"the node got no worker: {process.communicate(timeout=SECONDS)[0]}")


def encodes(worker: Any) -> bool:
    return " ".join(worker.cmdline()).startswith("ray::EncodingWorker.batches")


def test_a_killed_driver_resumes_and_keeps_what_was_finished(
    cluster: Any, encode: Callable[..., subprocess.Popen[str]], plain: dict[str, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = encode(store, "--engine", "ray", "--address", cluster.address)
    written = done_shards(store, 5, process)
    process.kill()
    process.communicate(timeout=SECONDS)
    assert not (store / "store.json").exists()
    finished(encode(store, "--engine", "ray", "--address", cluster.address))
    assert not differing(contents(store), plain)
    assert {name: (store / name).stat().st_mtime_ns for name in written} == written


def test_a_node_is_killed_while_it_encodes_and_nothing_is_lost_or_made_twice(
    cluster: Any, encode: Callable[..., subprocess.Popen[str]], plain: dict[str, bytes], tmp_path: Path
) -> None:
    import psutil

    store = tmp_path / "store"
    process = encode(store, "--engine", "ray", "--address", cluster.address)
    node = cluster.list_all_nodes()[-1]
    done_shards(store, 5, process)
    worker = frozen_worker(node, process)
    cluster.remove_node(node, allow_graceful=False)
    with suppress(psutil.NoSuchProcess):
        worker.kill()
    out = finished(process)
    assert "encoding on Ray with workers=3" in out
    assert "a Ray worker was lost" in out
    assert not differing(contents(store), plain)


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Return the files that differ, apart from the relative path of the model, which says where each store lies."""
    both = []
    for files in (dict(found), dict(expected)):
        facts = json.loads(files["store.json"])
        assert facts["settings"]["source"]["model"].pop("path").endswith("/tiny")
        both.append(files | {"store.json": json.dumps(facts).encode()})
    ours, theirs = both
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def test_a_worker_with_another_llama2vec_is_refused(
    cluster: Any, encode: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(llama2vec.__file__).parent, other / "llama2vec")
    home = other / "llama2vec" / "__init__.py"
    home.write_text(home.read_text(encoding="utf-8").replace(llama2vec.__version__, "0.0.9"), encoding="utf-8")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other)})
    try:
        line = refused(encode(tmp_path / "store", "--engine", "ray", "--address", cluster.address))
    finally:
        cluster.remove_node(node)
    assert f"llama2vec 0.0.9 instead of {llama2vec.__version__}" in line
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_local_ray_starts_and_ends_with_the_command(
    encode: Callable[..., subprocess.Popen[str]], plain: dict[str, bytes], tmp_path: Path
) -> None:
    import psutil

    process = encode(tmp_path / "store", "--engine", "ray")
    started: set[int] = set()
    while process.poll() is None and not (tmp_path / "store" / "store.json").exists():
        started |= {one.pid for one in psutil.Process(process.pid).children(recursive=True)}
        time.sleep(0.05)
    finished(process)
    assert len(started) > 2
    assert not differing(contents(tmp_path / "store"), plain)
    end = time.monotonic() + 30
    while any(map(psutil.pid_exists, started)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [pid for pid in started if psutil.pid_exists(pid)]


def test_an_unreachable_cluster_is_one_line_within_a_minute(
    encode: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    started = time.monotonic()
    line = refused(encode(tmp_path / "store", "--engine", "ray", "--address", "127.0.0.1:9"))
    assert "no Ray cluster answers at 127.0.0.1:9" in line
    assert time.monotonic() - started < 90 + 30 * bool(os.environ.get("CI"))
    assert not (tmp_path / "store").exists()

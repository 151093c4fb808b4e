r"""Time and memory against the number of passages: write a store, index, open, search and update it.

    OMP_NUM_THREADS=1 python -m benchmarks.scale.indexes --work runs/scale --output benchmarks/results/scale.json \
        --passages 10000 100000 1000000 10000000 --wide 1000000 --plot docs/scale.png

Every stage of every index is a process of its own, and is kept in the output: the same command resumes. A stage that
takes more than ``--minutes`` of processor time is stopped; one that took so long with a tenth of the passages that it
would be stopped is not begun. The output says so. ``seconds`` is wall time. ``processor`` is the time of the process
alone, and the number to compare on a busy machine; ``p50_ms`` and ``p95_ms``, of single queries, are processor time.
Memory is the process's own (the peak of RssAnon, without cached pages of files) above that of its imports.

Vectors are drawn so that they look like those of an encoder. A vector is the sum of a direction that all share, a
topic, a subtopic and a part of its own; each has a spectrum that falls as a power law, in a random basis. Subtopics
differ in size: half of the passages lie in a quarter of them. On 5,000 MS MARCO passages the vectors of SmolLM2-135M
after adaptation (width 576) have a mean cosine of 0.43, a tenth neighbor at 0.84, and variances that fall as the rank
to the power of -0.95; on 1,600 pieces of documents 0.34, 0.68 and -0.84. ``data`` in the output holds the same of what
was drawn. Queries are further draws. Texts are one short line.

An update leaves out every hundredth passage, adds as many new ones, and writes the store with ``--reuse`` of the old
one; then the index is built again, which takes as long as it took before.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.provenance import made_by
from benchmarks.scale.own_memory import Peak
from llama2vec.errors import StoreError
from llama2vec.files import write_json
from llama2vec.records import Passage, Query
from llama2vec.retrieve.index.faiss import FaissIndex
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.settings import IndexKind, SearchRequest
from llama2vec.retrieve.store.reader import Vectors, VectorStore
from llama2vec.retrieve.store.reuse import KnownVectors
from llama2vec.retrieve.store.writer import write_store

KINDS: tuple[IndexKind, ...] = ("exact", "faiss-int8", "faiss-binary", "faiss-ivfpq", "faiss-hnsw")
RECALL, DEPTH, QUERIES, BATCH = 0.98, 10, 200, 100
SHARD_SIZE = 2048  # As `llama2vec encode` chooses it
EVERY, LEFT_OUT = 100, 7  # Passages that an update leaves out: 7, 107, 207, …
SHARED, TOPIC, SUBTOPIC, OWN = 0.43, 0.14, 0.20, 0.23  # Shares of a vector's squared length
IN_SUBTOPIC, IN_TOPIC = 500, 50  # Passages in a subtopic, subtopics in a topic
DECAY = -0.9  # Variance of a direction: its rank to this power
SECONDS = 60.0  # Single queries are asked for so long at most

Stage = Callable[[Path, int, int, IndexKind], dict[str, Any]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work", type=Path, help="folder for stores and indexes; emptied at the end")
    options.add_argument("--output", type=Path)
    options.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    options.add_argument("--wide", type=int, nargs="*", default=[], help="numbers of passages at a width of 576")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--minutes", type=int, default=15, help="processor time of a stage, at most")
    options.add_argument("--plot", type=Path, help="PNG of time and memory against passages")
    options.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.one:
        stage, passages, width, kind = arguments.one
        resource.setrlimit(resource.RLIMIT_CPU, (60 * arguments.minutes,) * 2)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        print(json.dumps(STAGES[stage](arguments.work, int(passages), int(width), kind)))
        return
    if not arguments.work or not arguments.output:
        options.error("--work and --output are missing; name a folder, and the JSON file to write")
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"sizes": {}}
    for width, sizes in ((64, arguments.passages), (576, arguments.wide)):
        for passages in sizes:
            measure(results["sizes"], passages, width, arguments)
    if arguments.plot:
        plot(results["sizes"], arguments.plot)


def measure(results: dict[str, Any], passages: int, width: int, arguments: argparse.Namespace) -> None:
    """Run what the results lack of one size, each stage in its process, and write them down after each."""
    found, home = results.setdefault(f"{passages}x{width}", {}), arguments.work / f"{passages}x{width}"
    found.setdefault("indexes", {})

    def run(stage: str, kind: str, into: dict[str, Any]) -> None:
        before = results.get(f"{passages // 10}x{width}", {}).get("indexes", {}).get(kind, {}).get(stage, {})
        if 10 * before.get("processor", 0) > 60 * arguments.minutes or "stopped" in before:
            into[stage] = {"stopped": f"not begun, because a tenth took too long: {before}"}
        else:
            print(f"{passages:,} x {width}, {kind}, {stage} …", file=sys.stderr, flush=True)
            into[stage] = run_stage([stage, str(passages), str(width), kind], home, arguments.minutes)
        print(f"{passages:,} x {width}, {kind}, {stage}: {into[stage]}", flush=True)
        write_json(arguments.output, {"recall_asked_for": RECALL, "threads": threads(), "sizes": results, **made_by()})

    kinds = [one for one in arguments.kinds if not is_complete(found["indexes"].get(one, {}))]
    if kinds or "update" not in found:
        if "store" not in found or not (home / "store" / "store.json").exists():
            run("store", "exact", found)
        # The exact index finds what the recall of the others counts.
        if kinds and "exact" not in kinds and not (home / "nearest.npy").exists():
            kinds = ["exact", *kinds]
    for kind in kinds:
        into = found["indexes"].setdefault(kind, {})
        run("build", kind, into)
        if is_measured(into["build"]):
            run("search", kind, into)
        shutil.rmtree(home / f"index-{kind}", ignore_errors=True)
    if "update" not in found:
        run("update", "exact", found)
    shutil.rmtree(home, ignore_errors=True)


def run_stage(stage: list[str], home: Path, minutes: int) -> dict[str, Any]:
    """Run a stage in its own process; a stopped or failed one says so."""
    command = [sys.executable, "-m", "benchmarks.scale.indexes", "--work", str(home)]
    command += ["--minutes", str(minutes), "--one", *stage]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"stopped": f"after {minutes} minutes of processor time"}
    if done.returncode:
        return {"failed": f"exit status {done.returncode}"}
    return cast("dict[str, Any]", json.loads(done.stdout.splitlines()[-1]))


def is_measured(stage: dict[str, Any]) -> bool:
    return "seconds" in stage


def is_complete(index: dict[str, Any]) -> bool:
    return "build" in index and (not is_measured(index["build"]) or "search" in index)


def threads() -> int:
    return int(faiss.omp_get_max_threads())


class Drawn:
    """An encoder whose vectors are drawn; a passage's number is in its id, and the first of a batch is the seed."""

    contract_hash = "drawn"

    def __init__(self, passages: int, width: int) -> None:
        draw = np.random.default_rng(0)
        self.dimension, self._passages = width, passages
        deviations = np.arange(1, width + 1) ** (DECAY / 2)
        basis = np.linalg.qr(draw.standard_normal((width, width)))[0]
        self._basis = (deviations / np.linalg.norm(deviations))[:, None] * basis  # [D, D]
        subtopics = max(10 * IN_TOPIC, passages // IN_SUBTOPIC)
        self._shared = self._drawn(draw, 1)
        topics = self._drawn(draw, -(-subtopics // IN_TOPIC))[np.arange(subtopics) // IN_TOPIC]
        centers = SHARED**0.5 * self._shared + TOPIC**0.5 * topics + SUBTOPIC**0.5 * self._drawn(draw, subtopics)
        self._centers = centers[draw.permutation(subtopics)]  # [subtopics, D]

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, D] unit vectors."""
        return self.vectors(int(passages[0].id), len(passages))

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        """Return [Q, D] unit vectors, one for each number that is a query's text."""
        return np.concatenate([self.vectors(-1 - int(query.text), 1) for query in queries])

    def vectors(self, seed: int, count: int) -> Vectors:
        """Return [count, D] unit vectors."""
        draw = np.random.default_rng([1, abs(seed), int(seed < 0)])
        subtopics = (len(self._centers) * draw.random(count) ** 2).astype(np.int64)
        found = self._centers[subtopics] + OWN**0.5 * self._drawn(draw, count)
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def _drawn(self, draw: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
        """Return [count, D] with the spectrum and a mean square length of 1."""
        return draw.standard_normal((count, self.dimension), dtype=np.float32) @ self._basis.astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """Return how similar vectors are, to compare with a real encoder's."""
        size = min(5000, self._passages)
        sample = self.vectors(0, size)
        products = sample @ sample.T
        spread = np.linalg.svd(sample - sample.mean(axis=0), compute_uv=False) ** 2
        ranks = np.arange(2, min(100, self.dimension // 2))
        slope = np.polyfit(np.log(ranks), np.log(spread[ranks - 1]), 1)[0]
        np.fill_diagonal(products, np.nan)
        tenth = -np.partition(-np.nan_to_num(products, nan=-1), 9, axis=1)[:, 9]
        return {
            "mean_cosine": round(float(np.nanmean(products)), 3), "sample": size,
            "tenth_neighbor": round(float(np.median(tenth)), 3), "spectrum": round(float(slope), 2),
        }  # fmt: skip


def passages_of(numbers: Iterator[int] | range) -> Iterator[Passage]:
    return (
        Passage(str(number), f"Passage {number} of a drawn corpus, on subject {number % 977}.") for number in numbers
    )


def write(home: Path, passages: int, width: int, kind: IndexKind) -> dict[str, Any]:
    """Write the store."""
    encoder = Drawn(passages, width)
    with Peak() as peak:
        took, _ = timed(
            lambda: write_store(
                lambda: passages_of(range(passages)), encoder, home / "store", source={"corpus": "drawn"},
                shard_size=SHARD_SIZE, dtype="float16", total=passages,
            )
        )  # fmt: skip
    return took | {"mib": peak.mib, "disk_mib": disk(home / "store"), "data": encoder.facts()}


def update(home: Path, passages: int, width: int, kind: IndexKind) -> dict[str, Any]:
    """Write the store with 1 % of the passages left out and 1 % new ones."""
    encoder = Drawn(passages, width)

    def numbers() -> Iterator[int]:
        kept = (number for number in range(passages) if number % EVERY != LEFT_OUT)
        return chain(kept, range(passages, passages + passages // EVERY))

    def written() -> tuple[int, int]:
        known = KnownVectors(encoder, VectorStore.open(home / "store"), dtype="float16")
        store = write_store(
            lambda: passages_of(numbers()), known, home / "updated", source={"corpus": "drawn, updated"},
            shard_size=SHARD_SIZE, dtype="float16", total=passages,
        )  # fmt: skip
        return len(store), known.reused

    with Peak() as peak:
        took, (total, reused) = timed(written)
    if (total, reused) != (passages, passages - passages // EVERY):
        raise SystemExit(f"the update has {total} passages, {reused} of them known")
    return took | {"mib": peak.mib}


def build(home: Path, passages: int, width: int, kind: IndexKind) -> dict[str, Any]:
    """Build an index, tuned to the recall where it is approximate."""
    wanted = SearchRequest(recall=None if kind == "exact" else RECALL)
    with Peak() as peak:
        try:
            took, _ = timed(lambda: build_index(home / "store", home / f"index-{kind}", kind=kind, search=wanted))
        except StoreError as error:
            return {"refused": str(error).replace(str(home / "store"), "the store"), "mib": peak.mib}
    return took | {"mib": peak.mib, "disk_mib": disk(home / f"index-{kind}")}


def search(home: Path, passages: int, width: int, kind: IndexKind) -> dict[str, Any]:
    """Open an index in a fresh process and ask it: once, then 100 at a time, then one by one."""
    encoder = Drawn(passages, width)
    asked = [Query(str(number), str(number)) for number in range(QUERIES)]
    with Peak() as peak:
        opening, retriever = timed(lambda: Retriever.open(home / f"index-{kind}", encoder))
        first, _ = timed(lambda: retriever.hits("0", "dense", DEPTH))
        rows = retriever.index.search(encoder.encode_queries(asked), DEPTH)[1]
        batch, _ = timed(lambda: retriever.search(asked[:BATCH], "dense", DEPTH))
        singles, used = [], 0.0
        for query in asked:
            singles.append(timed(lambda text=query.text: retriever.hits(text, "dense", DEPTH))[0]["processor"])  # type: ignore[misc]
            used += singles[-1]
            if used > SECONDS:
                break
    if kind == "exact":
        np.save(home / "nearest.npy", rows)
    nearest = np.load(home / "nearest.npy")
    pairs = zip(rows.tolist(), nearest.tolist(), strict=True)
    half, most = np.percentile(singles, [50, 95])
    found = batch | {
        "open": opening, "first": first, "p50_ms": round(1000 * half, 2), "p95_ms": round(1000 * most, 2),
        "singles": len(singles), "mib": peak.mib,
        "recall": round(float(np.mean([len(set(some) & set(true)) / DEPTH for some, true in pairs])), 4),
    }  # fmt: skip
    return found | ({"facts": retriever.index.facts()} if isinstance(retriever.index, FaissIndex) else {})


STAGES: dict[str, Stage] = {"store": write, "update": update, "build": build, "search": search}


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, processor = time.monotonic(), time.process_time()
    done = work()
    seconds, used = time.monotonic() - wall, time.process_time() - processor
    return {"seconds": round(seconds, 4), "processor": round(used, 4)}, done


def disk(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)


def plot(sizes: dict[str, Any], file: Path) -> None:
    """Draw time and memory of the width 64 against the number of passages, a line for each index."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_count = sorted((int(name[:-3]), one) for name, one in sizes.items() if name.endswith("x64"))

    def points(*path: str) -> tuple[list[int], list[float]]:
        found: dict[int, Any] = {}
        for count, one in by_count:
            value: Any = one
            for key in path:
                value = value.get(key, {})
            if value != {}:
                found[count] = max(value, 1e-3)
        return list(found), list(found.values())

    wanted = (
        ("build, s", "build", ("processor",)), ("open, s", "search", ("open", "processor")),
        ("one query, ms", "search", ("p50_ms",)), ("memory of a build, MiB", "build", ("mib",)),
        ("memory of a search, MiB", "search", ("mib",)), ("recall@10 against exact", "search", ("recall",)),
    )  # fmt: skip
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    for axis, (title, stage, keys) in zip(axes.flat, wanted, strict=True):
        for kind in KINDS:
            if any(kind in one["indexes"] for _, one in by_count):
                axis.plot(*points("indexes", kind, stage, *keys), marker="o", markersize=4, label=kind)
        for name, label in (("store", "write the store"), ("update", "update 1 %")):
            if stage == "build":
                axis.plot(
                    *points(name, *keys),
                    marker=".",
                    linestyle=":",
                    color="gray" if name == "store" else "black",
                    label=label,
                )
        axis.set(
            xscale="log", yscale="linear" if "recall" in keys else "log", title=title, xlabel="passages of width 64"
        )
        axis.grid(alpha=0.3)
    axes[1, 2].set_ylim(0.9, 1.005)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()

"""Measure exact search over a store against FAISS's exact index (IndexFlatIP), as a ratio of time.

    python -m benchmarks.speed.exact_search --output benchmarks/results/exact-search-cpu.json

Vectors and queries are random unit vectors, because the time of a product does not depend on its numbers. Each side
runs in its own process, and the sides take turns, forwards and backwards. A ratio is FAISS's processor time over ours,
which other programs on the machine hardly disturb; the table holds the median of the turns and the wall time as well.
Only the search counts: FAISS has loaded its vectors into memory before, and ours reads the store's files, which a few
warm-up queries have brought into the system's cache. ``products`` is one large matrix product of all queries and
vectors, which both sides need.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np

from benchmarks.provenance import made_by
from benchmarks.speed.turns import in_turns
from llama2vec.files import write_json
from llama2vec.records import Passage
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.store.reader import Vectors, VectorStore
from llama2vec.retrieve.store.writer import write_store

SIDES = ("ours", "faiss", "products")


class RandomEncoder:
    """Random unit vectors, the same in every run."""

    contract_hash = "random"

    def __init__(self, dimension: int) -> None:
        self.dimension, self._draw = dimension, np.random.default_rng(0)

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        """Return [N, D] unit vectors."""
        vectors = self._draw.standard_normal((len(passages), self.dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main() -> None:
    """Measure every depth, or one side for a parent process."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path)
    options.add_argument("--passages", type=int, default=400_000)
    options.add_argument("--queries", type=int, default=1_000)
    options.add_argument("--dimension", type=int, default=576)
    options.add_argument("--depths", type=int, nargs="+", default=[100, 1000])
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.side:
        print(json.dumps(measured(arguments.side, arguments.folder, arguments.depths[0])))
        return
    if not arguments.output:
        options.error("--output is missing; name the JSON file to write")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments)
        rows = [compared(folder, depth, arguments) for depth in arguments.depths]
    settings = {name: getattr(arguments, name) for name in ("passages", "queries", "dimension", "repetitions")}
    settings["threads"] = faiss.omp_get_max_threads()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {"settings": settings, "rows": rows, **made_by()})


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the store and the queries once, for all sides."""
    encoder = RandomEncoder(arguments.dimension)
    rows = [Passage(str(number), "") for number in range(arguments.passages)]
    write_store(lambda: rows, encoder, folder / "store", source={}, shard_size=50_000)
    np.save(folder / "queries.npy", encoder.encode_passages([Passage("", "")] * arguments.queries))


def compared(folder: Path, depth: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all sides in turns at one depth; return medians, ratios and how far their results agree."""
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn, side in in_turns(SIDES, arguments.repetitions):
        command = [sys.executable, "-m", "benchmarks.speed.exact_search", "--side", side]
        command += ["--folder", str(folder), "--depths", str(depth)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        turns[side].append(json.loads(done.stdout))
        print(f"depth {depth}, {side}, turn {turn}: {turns[side][-1]}", file=sys.stderr, flush=True)
    found = {side: np.load(folder / f"{side}-{depth}.npy") for side in ("ours", "faiss")}
    pairs = list(zip(turns["ours"], turns["faiss"], strict=True))
    ratios = [theirs["processor_seconds"] / ours["processor_seconds"] for ours, theirs in pairs]
    return {
        "depth": depth,
        "ratio": round(median(ratios), 3),
        "turns": [round(ratio, 3) for ratio in ratios],
        "same_rows": float((found["ours"] == found["faiss"]).mean()),
        **{side: turns[side] for side in SIDES},
    }


def measured(side: str, folder: Path, depth: int) -> dict[str, Any]:
    """Search once, after a few queries that warm up."""
    store, queries = VectorStore.open(folder / "store"), np.load(folder / "queries.npy")
    if side == "ours":
        run = ExactIndex(store).search
    elif side == "faiss":
        run = _faiss_search(store)
    else:
        vectors = np.concatenate([rows for _, rows in store.shards()])
        run = lambda asked, _: (asked @ vectors.T, None)  # noqa: E731
    run(queries[:8], depth)
    wall, processor = time.perf_counter(), time.process_time()
    _, rows = run(queries, depth)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    if rows is not None:
        np.save(folder / f"{side}-{depth}.npy", rows)
    return {name: round(value, 3) for name, value in seconds.items()}


def _faiss_search(store: VectorStore) -> Any:
    index = faiss.IndexFlatIP(store.dimension)
    for _, vectors in store.shards():
        index.add(np.ascontiguousarray(vectors))
    return index.search


if __name__ == "__main__":
    main()

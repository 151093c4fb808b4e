r"""Measure a search from the shell to its printed answer, each time in a new process: with a query reader and without.

    python -m benchmarks.speed.first_answer INDEX --output benchmarks/results/first-answer-cpu.json

Two searches that are not timed bring the files into the page cache. Then the ways take turns:

- ``reader``: the query reader is there;
- ``model``: readers are turned off, so that the search loads the model;
- ``writing``: the cache is empty, so that the search loads the model and writes one;
- ``words``: the search by BM25 alone;
- ``torch``: ``import torch`` and nothing else, which is a part of the first three.

Readers are written to a folder that is removed at the end. Models that were unpacked before stay where they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.provenance import made_by
from benchmarks.speed.turns import rounded
from llama2vec.files import write_json
from llama2vec.model.quick_queries import SWITCH
from llama2vec.model.source import cache_folder

QUESTION = "Which treaty ended the war between the two empires?"
WAYS = ("reader", "model", "writing", "words", "torch")
GOAL_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="with vectors and BM25, as for `llama2vec search`")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--times", type=int, default=9, help="timed searches of each way")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    search = ("-m", "llama2vec.cli", "search", str(options.index), options.question)
    times: dict[str, list[float]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory() as folder:
        kept = cache_in(Path(folder) / "kept")
        for _ in range(2):
            seconds_of(search, kept)
            time.sleep(3)  # A file that is younger is hashed again by the next search.
        size = sum(file.stat().st_size for file in (kept / "readers").rglob("*") if file.is_file())
        for number in range(options.times):
            for name, values in times.items():
                cache = cache_in(Path(folder) / f"new-{number}") if name == "writing" else kept
                command = {"torch": ("-c", "import torch"), "words": (*search, "--mode", "bm25")}.get(name, search)
                values.append(rounded(seconds_of(command, cache, readers=name != "model")))
    results = [{"way": name, "median_seconds": median(values), "seconds": values} for name, values in times.items()]
    facts = {"index": options.index.name, "question": options.question, "goal_seconds": GOAL_SECONDS}
    write_json(options.output, {**facts, "reader_bytes": size, "results": results, **made_by()})
    print("\n".join(f"{result['way']}: {result['median_seconds']} s" for result in results))


def cache_in(folder: Path) -> Path:
    """Return a new cache with what the user's cache has, but no readers."""
    folder.mkdir()
    for entry in cache_folder().iterdir() if cache_folder().is_dir() else ():
        if entry.name != "readers":
            (folder / entry.name).symlink_to(entry.resolve())
    return folder


def seconds_of(command: Sequence[str], cache: Path, *, readers: bool = True) -> float:
    """Return the seconds from the start to the end of a Python process."""
    environment = {**os.environ, "LLAMA2VEC_CACHE": str(cache), SWITCH: str(int(readers))}
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

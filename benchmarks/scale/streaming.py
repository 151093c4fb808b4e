"""The memory that training data take against their number of rows: on the disk (streaming) and in memory.

    python -m benchmarks.scale.streaming --output benchmarks/results/streaming.json --rows 50000 1000000 10000000
    python -m benchmarks.scale.streaming --output benchmarks/results/streaming.json --stages finetune-15 --rows 50000

Each measurement is a fresh process without a model: it reads a generated corpus or generated examples as a stage does,
writes or holds the rows, and draws batches of the first epoch. A text has a dozen words; in ``finetune-15``, which is
shaped like MS MARCO, a row has 15 negatives and a passage 55 words. It is kept in the output, so that the same command
resumes. What counts is the process's own memory (the peak of RssAnon, which leaves out cached file pages) above that of
the imports. ``processor`` is the time of the process alone, and the one to compare on a busy machine; making the file
is in neither time.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.provenance import made_by
from benchmarks.scale.own_memory import Peak
from llama2vec.files import write_json

WORDS = ("river", "stone", "bridge", "castle", "winter", "market", "harbor", "engine", "letter", "garden", "forest")
BATCHES, BATCH_SIZE = 2000, 16


def main() -> None:
    """Measure every stage, way and number of rows; or one of them for a parent process."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path)
    options.add_argument("--stages", nargs="+", choices=STAGES, default=["adapt", "finetune"])
    options.add_argument("--rows", type=int, nargs="+", default=[50_000, 1_000_000])
    options.add_argument("--most-in-memory", type=int, default=1_000_000, help="rows held in memory at most")
    options.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.one:
        stage, way, rows = arguments.one
        print(json.dumps(measured(stage, way, int(rows))))
        return
    if not arguments.output:
        options.error("--output is missing; name the JSON file to write")
    found = json.loads(arguments.output.read_text())["results"] if arguments.output.is_file() else []
    known = {(one["stage"], one["way"], one["rows"]) for one in found}
    for stage in arguments.stages:
        for rows in arguments.rows:
            for way in ("streaming", "memory"):
                if (stage, way, rows) not in known and (way == "streaming" or rows <= arguments.most_in_memory):
                    command = [sys.executable, "-m", "benchmarks.scale.streaming", "--one", stage, way, str(rows)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found.append(json.loads(done.stdout.splitlines()[-1]))
                    print(found[-1], flush=True)
                    results = {"batches": BATCHES, "batch_size": BATCH_SIZE, "results": found}
                    write_json(arguments.output, results | made_by())


def measured(stage: str, way: str, rows: int) -> dict[str, Any]:
    """Read, hold and draw in this process; return its memory above the imports, and the time."""
    make, read = STAGES[stage]
    # What one row needs is loaded before the count begins.
    with tempfile.TemporaryDirectory() as name:
        make(Path(name) / "rows.jsonl", 200)
        read(Path(name), way)
    with tempfile.TemporaryDirectory() as name:
        make(Path(name) / "rows.jsonl", rows)
        with Peak() as peak:
            started, used = time.monotonic(), time.process_time()
            drawn = read(Path(name), way)
            seconds, processor = time.monotonic() - started, time.process_time() - used
        disk = sum(path.stat().st_size for path in Path(name).rglob("*"))
    return {
        "stage": stage, "way": way, "rows": rows, "drawn": drawn, "mib": peak.mib, "seconds": round(seconds, 1),
        "processor": round(processor, 1), "disk_mib": round(disk / 2**20, 1),
    }  # fmt: skip


def sentences(words: int) -> Callable[[], str]:
    draw = random.Random(0)
    return lambda: f"{' '.join(draw.choices(WORDS, k=words)).capitalize()}."


def make_corpus(file: Path, rows: int) -> None:
    """Write documents of one sentence."""
    sentence = sentences(13)
    with file.open("w", encoding="utf-8") as stream:
        for row in range(rows):
            stream.write(json.dumps({"_id": f"d{row}", "text": sentence()}) + "\n")


def make_examples(file: Path, rows: int, *, negatives: int = 1, words: int = 13) -> None:
    """Write labeled examples, each with its own query."""
    query, passage = sentences(13), sentences(words)
    with file.open("w", encoding="utf-8") as stream:
        for row in range(rows):
            values = {"query": f"{row} {query()}", "pos": [passage()], "neg": [passage() for _ in range(negatives)]}
            stream.write(json.dumps(values) + "\n")


def adapt(folder: Path, way: str) -> int:
    """Make the pairs of a corpus, and draw batches."""
    from llama2vec.adapt.pairs import read_pairs
    from llama2vec.adapt.settings import AdaptConfig
    from llama2vec.adapt.train import PretextObjective
    from llama2vec.config import load_config
    from llama2vec.data.corpus.passages import read_passages

    corpus, streaming = folder / "rows.jsonl", str(way == "streaming").lower()
    config = load_config(AdaptConfig, None, [f"text.corpus={corpus}", f"text.streaming={streaming}"])
    examples = read_pairs(config, _Work(folder), read_passages(corpus)).training
    order = PretextObjective.order(None, examples, config.optimizer)
    return _drawn(examples, order)


def finetune(folder: Path, way: str) -> int:
    """Read labeled examples, and draw batches."""
    from llama2vec.config import load_config
    from llama2vec.finetune.batches import ContrastiveOrder
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.finetune.train import _read

    streaming = str(way == "streaming").lower()
    sets = [f"data.sources={folder / 'rows.jsonl'}", f"data.streaming={streaming}", "contrastive.negatives=1"]
    examples, _ = _read(load_config(FinetuneConfig, None, sets), _Work(folder), None)
    return _drawn(examples, ContrastiveOrder(examples, BATCH_SIZE, 0))


class _Work:
    """The place where a stage writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> Path:
        return self._folder


def _drawn(examples: Any, order: Any) -> int:
    rows: Iterator[int] = islice(iter(order), BATCHES * BATCH_SIZE)
    return sum(1 for row in rows if examples[row] is not None)


STAGES: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, str], int]]] = {
    "adapt": (make_corpus, adapt),
    "finetune": (make_examples, finetune),
    "finetune-15": (partial(make_examples, negatives=15, words=55), finetune),
}


if __name__ == "__main__":
    main()

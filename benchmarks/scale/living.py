r"""Measure what a sync costs: the first one, one without changes, and one after one file changed, moved or went.

    python -m benchmarks.scale.living --passages 10000 100000 --output benchmarks/results/living.json

Markdown files of ten sections of 60 made-up words, each section a passage, are read from the disk by the readers and
the splitter of ``llama2vec sync``. Vectors of width 576 are random numbers that the text decides, so that the encoding
itself costs next to nothing. ``seconds`` is wall time; ``processor`` is the time of this process alone, and the number
to compare on a busy machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.provenance import made_by
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.files import write_json
from llama2vec.records import Passage
from llama2vec.retrieve.syncing.folder_source import FolderSource
from llama2vec.retrieve.syncing.library import Library, SyncReport

WIDTH, SECTIONS, WORDS, VOCABULARY = 576, 10, 60, 50_000


class RandomEncoder:
    """Unit vectors that the text decides."""

    dimension, contract_hash = WIDTH, "random"

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        """Return [N, 576] float32."""
        seeds = [int.from_bytes(hashlib.blake2b(p.full_text.encode(), digest_size=8).digest(), "big") for p in passages]
        vectors = np.stack([np.random.default_rng(seed).standard_normal(WIDTH, dtype=np.float32) for seed in seeds])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_file(file: Path, seed: int) -> None:
    """Write a Markdown file of ten sections."""
    draw = random.Random(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"# Document {file.stem}"]
    for number in range(SECTIONS):
        words = " ".join(f"w{int(VOCABULARY ** draw.random())}" for _ in range(WORDS))
        parts.append(f"## Section {number}\n\n{words}.")
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def measured(passages: int) -> dict[str, Any]:
    """Return the costs of five syncs of a folder with so many passages."""
    with tempfile.TemporaryDirectory() as home:
        folder, index = Path(home, "docs"), Path(home, "index")
        for number in range(passages // SECTIONS):
            write_file(folder / f"{number // 100:04d}" / f"{number:06d}.md", number)
        some = folder / "0000" / "000050.md"

        def sync() -> SyncReport:
            splitter = Splitter.of_words(PassageSettings(tokens=80, overlap=0))
            return Library(index).sync(FolderSource(folder, ReadingSettings(), splitter), RandomEncoder())

        found: dict[str, Any] = {"first": _timed(sync), "nothing changed": _timed(sync)}
        write_file(some, -1)
        found["one file changed"] = _timed(sync)
        some.rename(some.with_name("moved.md"))
        found["one file renamed"] = _timed(sync)
        some.with_name("moved.md").unlink()
        found["one file deleted"] = _timed(sync)
        found["bytes"] = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    return found


def _timed(sync: Callable[[], SyncReport]) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    report = sync()
    seconds, used = time.perf_counter() - wall, time.process_time() - processor
    return {
        "seconds": round(seconds, 2), "processor": round(used, 2), "passages": report.passages,
        "encoded": report.encoded,
    }  # fmt: skip


def main() -> None:
    """Measure each number of passages and write the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--passages", nargs="+", type=int, default=[10_000])
    options.add_argument("--output", type=Path)
    arguments = options.parse_args()
    results: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        results = json.loads(arguments.output.read_text(encoding="utf-8"))
    for passages in arguments.passages:
        results[str(passages)] = measured(passages)
        print(passages, json.dumps(results[str(passages)]), flush=True)
        if arguments.output:
            write_json(arguments.output, results | {"made_by": made_by()})


if __name__ == "__main__":
    main()

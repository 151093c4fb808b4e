"""Measure speed and memory against peers, as ratios.

Run ``python -m benchmarks.speed.ratios --output benchmarks/results/speed-cpu.json``.

Every side runs in its own process. The sides of a comparison take turns within one run, forwards and backwards, and a
ratio is the median of the turns' ratios. benchmarks/README.md explains each ratio. This process stays small and never
imports torch, because on Linux a child's peak of memory starts at its parent's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.provenance import made_by
from benchmarks.speed.turns import in_turns, rounded
from benchmarks.texts import DATA, continuations, documents
from llama2vec.files import write_json

FAST_PATHS = ("fast-paths", "fused-lora", "lean-layers", "lean-attention")
TRAINING = {
    "adapt-default-vs-published": ("joint", "published"),
    "adapt-like-for-like": ("like-for-like", "published"),
    "adapt-joint-vs-two-passes": ("joint", "two-passes"),
    **{f"adapt-vs-without-{path}": ("joint", f"joint-without-{path}") for path in FAST_PATHS},
    "adapt-all-weights-vs-without-fast-paths": ("like-for-like", "like-for-like-without-fast-paths"),
}
ENCODING = {
    "encode-bf16-vs-sentence-transformers": "bfloat16",
    "encode-fp32-vs-sentence-transformers": "float32",
}
SHARE = "encode-share-of-matmul-peak"
CONTRASTIVE, FLAT = "finetune-vs-cached-mnrl", "finetune-memory-of-batch-512-vs-64"
REACH = {
    "adapt-default-vs-published": 3.0,
    "adapt-like-for-like": 1.3,
    "adapt-joint-vs-two-passes": 1.8,
    **{f"adapt-vs-without-{path}": 1.0 for path in FAST_PATHS},
    "adapt-all-weights-vs-without-fast-paths": 1.0,
    "encode-bf16-vs-sentence-transformers": 1.5,
    "encode-fp32-vs-sentence-transformers": 1.5,
    SHARE: 0.7,
    CONTRASTIVE: 1.2,
    FLAT: 1.1,
}
_UNIT = "text tokens/s"

Measured = dict[str, list[dict[str, Any]]]
Row = dict[str, Any]


class Workbench:
    """Starts measurements, one process each, and keeps the files they exchange.

    Args:
        folder: Temporary folder.
        settings: The command line.
    """

    def __init__(self, folder: Path, settings: argparse.Namespace) -> None:
        self.folder, self.settings, self.facts = folder, settings, dict[str, Any]()
        self._console = Console(stderr=True)

    def prepare(self) -> None:
        """Save the model and cut the texts once, for all sides."""
        names = ("model", "random", "layers", "dtype", "texts", "data", "pair_tokens")
        job = {name: getattr(self.settings, name) for name in names}
        job["pair_count"] = max(512, *self.settings.contrastive_batches)
        self.facts = self._run(
            {**job, "kind": "prepare", "folder": str(self.folder / "model"), "max_tokens": self.settings.encode_tokens}
        )

    def turns(self, jobs: Mapping[str, Mapping[str, Any]]) -> Measured:
        """Run every side once per repetition, in turns, reversing the order each time so that drift cancels."""
        found: Measured = {side: [] for side in jobs}
        for turn, side in in_turns(jobs, self.settings.repetitions):
            result = self._run(jobs[side])
            found[side].append(result)
            self._console.print(
                f"  {side:<40} turn {turn}: {result['tokens_per_second']:8.1f} /s, peak {result['peak_gib']:.2f} GiB",
                highlight=False,
                soft_wrap=True,
            )
        return found

    def run_once(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Run one job outside the turns."""
        return self._run(job)

    def _run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        path = self.folder / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.speed.measure", str(path)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(done.stderr[-4000:], file=sys.stderr)
            raise SystemExit(f"the measurement {job.get('side', job['kind'])} failed (exit code {done.returncode})")
        result: dict[str, Any] = json.loads(path.with_suffix(".result").read_text(encoding="utf-8"))
        return result


def training_rows(bench: Workbench, wanted: Sequence[str], length: int) -> list[Row]:
    """Measure the training comparisons at one length."""
    settings, dtype = bench.settings, bench.facts["dtype"]
    source, passages = documents(Path(settings.data))
    pairs = continuations(passages, length, settings.batch_size * (settings.steps + 1))
    comparisons = [(name, *TRAINING[name], False) for name in wanted]
    if settings.published_checkpointing:
        with_peer = [name for name in wanted if TRAINING[name][1] == "published"]
        comparisons += [(name, TRAINING[name][0], "published-checkpointing", True) for name in with_peer]
    sides = dict.fromkeys(side for _, ours, peer, _ in comparisons for side in (ours, peer))
    common = {"kind": "train", "model": str(bench.folder / "model"), "dtype": dtype, "length": length, "pairs": pairs}
    common |= {"batch_size": settings.batch_size}
    found = bench.turns({side: {**common, "side": side} for side in sides})
    rows = []
    for name, ours, peer, checkpointing in comparisons:
        facts = {"length": length, "batch_size": settings.batch_size, "texts": source, "dtype": dtype}
        facts["tokens"] = found[ours][0]["text_tokens"]
        if found[peer][0]["text_tokens"] != facts["tokens"]:
            raise SystemExit(f"{name}: the sides read different texts; this is a bug of the benchmark")
        if TRAINING[name][1] == "published":
            facts["peer_gradient_checkpointing"] = checkpointing
        facts["ours_share_of_matmul_peak"] = rounded(median(_share(turn) for turn in found[ours]))
        facts["first_losses"] = {"ours": found[ours][0]["losses"], "peer": found[peer][0]["losses"]}
        rows.append(_row(name, found[ours], found[peer], facts))
    return rows


def encoding_rows(bench: Workbench, wanted: Sequence[str], skipped: list[Row]) -> list[Row]:
    """Measure the encoding comparisons, and check the vectors against a plain loop."""
    native = bench.facts["native_bfloat16"] or bench.settings.force_bf16
    formats = {name: dtype for name, dtype in ENCODING.items() if name in wanted or SHARE in wanted}
    if not native and formats.pop("encode-bf16-vs-sentence-transformers", None):
        for name in {"encode-bf16-vs-sentence-transformers", SHARE} & set(wanted):
            reason = "this processor does not multiply bfloat16 natively; pass --force-bf16 to measure it anyway"
            skipped.append({"name": name, "dtype": "bfloat16", "reason": reason})
    names = ("texts_source", "text_tokens", "tokens", "non_embedding_parameters")
    common = {"kind": "encode", "model": str(bench.folder / "model"), "encode_texts": bench.facts["texts"]}
    common |= {"max_tokens": bench.settings.encode_tokens, **{name: bench.facts[name] for name in names}}
    sides = {}
    for name, dtype in formats.items():
        for side in ("ours", "sentence-transformers") if name in wanted else ("ours",):
            label = f"{side} {dtype}"
            sides[label] = {**common, "side": side, "dtype": dtype, "vectors": str(bench.folder / f"{label}.npy")}
    if not sides:
        return []
    reference = {**common, "side": "reference", "dtype": "float32", "vectors": str(bench.folder / "reference.npy")}
    every = max(1, len(bench.facts["texts"]) // bench.settings.check_texts)
    bench.run_once({**reference, "encode_texts": bench.facts["texts"][::every]})
    found = bench.turns(sides)
    rows = []
    for name, dtype in formats.items():
        facts = {"texts": bench.facts["texts_source"], "max_tokens": bench.settings.encode_tokens}
        facts |= {"tokens": bench.facts["text_tokens"], "dtype": dtype}
        ours = found[f"ours {dtype}"]
        if name in wanted:
            agreement = _agreement(bench.folder, dtype, every)
            agreement["texts_with_identical_token_ids"] = (
                f"{bench.facts['identical_token_ids']} of {len(bench.facts['texts'])}"
            )
            rows.append(_row(name, ours, found[f"sentence-transformers {dtype}"], {**facts, "vectors": agreement}))
        if SHARE in wanted:
            share = {"name": SHARE, "ratio": rounded(median(_share(turn) for turn in ours)), "unit": "GFLOP/s", **facts}
            share["ours"] = rounded(median(turn["gflops"] for turn in ours))
            share["peer"] = rounded(median(turn["matmul_peak_gflops"] for turn in ours))
            share |= {
                "tokens": bench.facts["tokens"],
                "turns": [rounded(_share(turn)) for turn in ours],
                "reach": REACH[SHARE],
            }
            rows.append(share)
    return rows


def contrastive_rows(bench: Workbench, wanted: Sequence[str]) -> list[Row]:
    """Measure contrastive batches against sentence-transformers' gradient cache, and memory as the batch grows."""
    settings, dtype = bench.settings, bench.facts["dtype"]
    common = {"kind": "contrast", "model": str(bench.folder / "model"), "dtype": dtype, "compiled": settings.compile}
    facts = {"texts": bench.facts["pairs_source"], "max_tokens": settings.pair_tokens, "dtype": dtype}
    facts["compiled"] = settings.compile
    rows = []
    for size in settings.contrastive_batches if CONTRASTIVE in wanted else []:
        job = {**common, "batch_size": size, "pairs": bench.facts["pairs"][:size]}
        found = bench.turns({side: {**job, "side": side} for side in ("ours", "cached", "cached-tokens")})
        for peer in ("cached", "cached-tokens"):
            losses = {"ours": found["ours"][0]["losses"], "peer": found[peer][0]["losses"]}
            row = {**facts, "peer_side": peer, "batch_size": size, "first_losses": losses}
            rows.append(_row(CONTRASTIVE, found["ours"], found[peer], row) | {"unit": "examples/s"})
    if FLAT in wanted:
        # The same 512 pairs both times: weights are mapped from their file, and each new token adds a page of them.
        jobs = {
            size: {**common, "side": "ours", "batch_size": size, "pairs": bench.facts["pairs"][:512], "held": 2048}
            for size in (64, 512)
        }
        large, small = (bench.run_once(jobs[size])["peak_gib"] for size in (512, 64))
        flat = {"name": FLAT, "ratio": rounded(large / small), "ours": rounded(large), "peer": rounded(small)}
        rows.append({**flat, "unit": "GiB", **facts, "reach": REACH[FLAT]})
    return rows


def _agreement(folder: Path, dtype: str, every: int) -> dict[str, Any]:
    """Compare vectors [N, D] with those of the plain float32 loop, which read every ``every``-th text."""
    reference = np.load(folder / "reference.npy")
    found: dict[str, Any] = {"checked": len(reference)}
    for side in ("ours", "sentence-transformers"):
        vectors = np.load(folder / f"{side} {dtype}.npy")[::every]
        # In float64: a float32 dot product of unit vectors is itself uncertain by 1e-7.
        cosines = (vectors.astype(np.float64) * reference).sum(axis=1)
        key = side.replace("-", "_")
        found[f"{key}_max_difference"] = float(np.abs(vectors - reference).max())
        found[f"{key}_min_cosine"] = float(cosines.min())
    return found


def _row(name: str, ours: Sequence[Row], peer: Sequence[Row], facts: Mapping[str, Any]) -> Row:
    turns = [left["tokens_per_second"] / right["tokens_per_second"] for left, right in zip(ours, peer, strict=True)]
    peaks = [max(turn["peak_gib"] for turn in side) for side in (ours, peer)]
    return {
        "name": name,
        "ratio": rounded(median(turns)),
        "ours": rounded(median(turn["tokens_per_second"] for turn in ours)),
        "peer": rounded(median(turn["tokens_per_second"] for turn in peer)),
        "unit": _UNIT,
        **facts,
        "ours_peak_gib": rounded(peaks[0]),
        "peer_peak_gib": rounded(peaks[1]),
        "memory_ratio": rounded(peaks[0] / peaks[1]),
        "turns": [rounded(turn) for turn in turns],
        "reach": REACH[name],
    }


def _share(turn: Row) -> float:
    return float(turn["gflops"] / turn["matmul_peak_gflops"])


def table(rows: Iterable[Row]) -> Table:
    """Return the ratios as a table for the terminal."""
    found = Table(title="Speed and memory against peers")
    for column in ("comparison", "length", "format"):
        found.add_column(column)
    for column in ("ratio", "reach", "ours", "peer", "unit", "ours GiB", "peer GiB", "memory"):
        found.add_column(column, justify="right")
    for row in rows:
        name = row["name"] + (" (peer checkpoints)" if row.get("peer_gradient_checkpointing") else "")
        numbers = [row.get(key) for key in ("ours_peak_gib", "peer_peak_gib", "memory_ratio")]
        found.add_row(
            name,
            str(row.get("length", row.get("max_tokens", ""))),
            row["dtype"],
            f"{row['ratio']:.2f}",
            f"{row['reach']:g}",
            f"{row['ours']:,.1f}",
            f"{row['peer']:,.1f}",
            row["unit"],
            *("" if number is None else f"{number:.2f}" for number in numbers),
        )
    return found


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    names = [*TRAINING, *ENCODING, SHARE, CONTRASTIVE, FLAT]
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512], help="longest training text in tokens")
    parser.add_argument("--repetitions", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="timed training steps a turn, after one that warms up")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of training")
    parser.add_argument("--published-checkpointing", action="store_true", help="measure the peer with it as well")
    parser.add_argument("--force-bf16", action="store_true", help="encode in bfloat16 even where it is emulated")
    parser.add_argument("--texts", type=int, default=400, help="texts to encode")
    parser.add_argument("--encode-tokens", type=int, default=256, help="longest text to encode in tokens")
    parser.add_argument("--contrastive-batches", nargs="+", type=int, default=[64, 256], help="queries a batch")
    parser.add_argument("--compile", action="store_true", help="fine-tune with compiled layers (ours)")
    parser.add_argument("--pair-tokens", type=int, default=128, help="longest query or passage of a contrastive batch")
    parser.add_argument("--check-texts", type=int, default=100, help="texts that the plain loop encodes")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--random", action="store_true", help="the model's shape with random weights")
    parser.add_argument("--layers", type=int, default=0, help="keep only the first layers; 0 = all")
    parser.add_argument("--data", default=str(DATA), help="folder with wiki/ and cranfield/")
    return parser.parse_args()


def main() -> None:
    settings = command_line()
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    started, rows, skipped = time.monotonic(), list[Row](), list[Row]()
    with tempfile.TemporaryDirectory(prefix="llama2vec-speed-") as folder:
        bench = Workbench(Path(folder), settings)
        bench.prepare()
        wanted = [name for name in TRAINING if name in settings.only]
        for length in settings.lengths if wanted else []:
            rows += training_rows(bench, wanted, length)
            _write(settings, bench.facts, rows, skipped, started)
        rows += encoding_rows(bench, [name for name in settings.only if name in (*ENCODING, SHARE)], skipped)
        _write(settings, bench.facts, rows, skipped, started)
        rows += contrastive_rows(bench, settings.only)
        _write(settings, bench.facts, rows, skipped, started)
    Console(width=max(Console().width, 150)).print(table(rows))
    for entry in skipped:
        print(f"Skipped {entry['name']} in {entry['dtype']}: {entry['reason']}")
    print(f"Wrote {len(rows)} ratios to {settings.output} in {time.monotonic() - started:.0f} s")


def _write(
    settings: argparse.Namespace, facts: Mapping[str, Any], rows: list[Row], skipped: list[Row], started: float
) -> None:
    """Write the measurements so far, so that an interrupted run is not lost."""
    model = {
        "name": settings.model,
        "layers": settings.layers or "all",
        "weights": "random" if settings.random else "its own",
    }
    machine = {name: facts[name] for name in ("device", "threads", "native_bfloat16")}
    write_json(
        settings.output,
        {
            **made_by(["sentence-transformers"], **machine),
            "model": model,
            "seconds": round(time.monotonic() - started, 1),
            "ratios": rows,
            "skipped": skipped,
        },
    )


if __name__ == "__main__":
    main()

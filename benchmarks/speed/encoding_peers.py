r"""Compare encoding and single queries with every program that a laptop user could take instead, on the same weights.

    python -m benchmarks.speed.encoding_peers --work runs/peers \
        --output benchmarks/results/encoding-peers-bf16-cpu.json --plot docs/encoding-peers.png

The model is ``llama2vec-smollm2-135m`` with all its 30 layers, pooled at its last token by the last layer alone:
every other program can do that. All sides read the same token ids, prompt included; text tokens are counted without
it. Each side is a process of its own. ``ours`` (compiled layers in bfloat16) takes turns with the sides of a group,
forwards and backwards; a turn is one pass of about ``--seconds`` over texts of one length, after the side has tried two
sizes of a batch and kept the faster one. A ratio is the median of the turns' ratios. Cosines compare vectors with a
plain float32 loop. ``others`` in the output are the processors that other work took during a turn; a turn that lost
more than a tenth of one is measured again.

A query is 12 tokens. Warm: one after the other, each another text. Cold: from the start of the process to its first
vector, the files in the page cache.

Rows are kept in the output, and the same command measures what it lacks. With ``--minutes`` it begins no row that would
end later. What a program cannot do is a row that says why. OpenVINO and llama.cpp are optional:
``pip install openvino nncf xllamacpp``, and llama-cpp-python from its sources for a llama.cpp that uses this processor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.provenance import made_by
from benchmarks.speed.encoding_peers_table import NAMES, OURS, rates
from benchmarks.speed.turns import in_turns, rounded
from benchmarks.texts import DATA
from llama2vec.files import write_json

THREADS = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
GROUPS = {
    "sentence-transformers": ("sentence-transformers", "sentence-transformers-onnx", "sentence-transformers-openvino"),
    "openvino": ("openvino", "openvino-int8"),
    "onnxruntime": ("onnxruntime", "onnxruntime-int8"),
    "llama.cpp": ("llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_0"),
    "llama.cpp-wheel": ("llama.cpp-wheel-q8_0",),
    "ours": ("ours-stock", "ours-float32"),
}
LATENCY, PEAK, VECTORS, QUERY = "latency", "peak", "vectors", 12
_DISTURBED, _TRIES = 0.1, 3
"""Processors that others took during a turn, from which it is measured again, at most so often."""
_COLD_STARTS, _WARM_UP, _QUERIES = 3, 5, 60
_PACKAGES = ("sentence-transformers", "onnxruntime", "openvino", "nncf", "xllamacpp", "llama-cpp-python")
_FILES = {
    "openvino": "openvino", "openvino-int8": "openvino-int8", "onnxruntime": "onnx", "onnxruntime-int8": "onnx-int8",
    "llama.cpp-bf16": "bf16.gguf", "llama.cpp-q8_0": "q8_0.gguf", "llama.cpp-q4_0": "q4_0.gguf",
    "llama.cpp-wheel-q8_0": "q8_0.gguf",
}  # fmt: skip

Answer = dict[str, Any]


class Peer:
    """A side's process, which answers one request at a time."""

    def __init__(self, side: str, work: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.speed.encoding_peer", side, str(work)]
        self._log = (work / f"{side}.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def ask(self, action: str, **request: Any) -> Answer:
        """Return the answer; a process that died, or failed, is an answer with ``failed``."""
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": action, **request}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            return {"failed": f"its process ended with status {self._process.wait()}"}
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@contextmanager
def opened(side: str, work: Path) -> Iterator[Peer]:
    peer = Peer(side, work)
    try:
        yield peer
    finally:
        peer.close()


class Bench:
    """What has been measured, and what is still to do."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.work, self.started = settings, Path(settings.work), time.monotonic()
        known = json.loads(settings.output.read_text(encoding="utf-8")) if settings.output.is_file() else {}
        self.rows: dict[str, Any] = known.get("rows", {})
        self._known_model = known.get("model")
        self.facts: Answer = {}
        self._longest = 0.0

    def prepare(self) -> None:
        """Write the model's formats and the texts, in a process of its own, because this one stays small."""
        job = {name: getattr(self.settings, name) for name in ("work", "model", "layers", "data", "checked")}
        job["lengths"] = sorted({QUERY, *self.settings.lengths})
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.speed.encoding_files", str(self.work / "job.json")]
        subprocess.run(command, check=True)

    def open(self) -> None:
        """Read what ``prepare`` said of the files."""
        self.facts = json.loads((self.work / "facts.json").read_text(encoding="utf-8"))
        if self._known_model not in (None, self.model):
            raise SystemExit(f"{self.settings.output} is of the model {self._known_model}; choose another --output")

    @property
    def model(self) -> dict[str, Any]:
        """Return what the rows are measured on."""
        return {"name": self.settings.model, **{key: self.facts[key] for key in ("layers", "weights", "prompt")}}

    def due(self, keys: Sequence[str]) -> Iterator[str]:
        """Yield the keys that the output lacks, as long as there is time, and time each."""
        for key in keys:
            spent = time.monotonic() - self.started
            if key in self.rows or spent + self._longest > 60 * self.settings.minutes:
                continue
            begun = time.monotonic()
            yield key
            self._longest = max(self._longest, time.monotonic() - begun)
            self.save()

    def missing(self, side: str) -> str | None:
        """Say why a side's file could not be written; None where it was."""
        return str(self.facts["missing"][_FILES[side]]) if _FILES.get(side) in self.facts["missing"] else None

    def save(self) -> None:
        """Write what there is."""
        write_json(
            self.settings.output,
            {
                **made_by(_PACKAGES, threads=THREADS, native_bfloat16=self.facts["native_bfloat16"]),
                "model": self.model,
                "texts": self.facts["texts"],
                "prompt_tokens": self.facts["prompt_tokens"],
                "rows": self.rows,
            },
        )


def throughput(bench: Bench, group: str) -> None:
    """Measure a group of sides beside ours, a row for each length."""
    keys = {f"{group} {length}": str(length) for length in bench.settings.lengths}
    with ExitStack() as stack:
        peers: dict[str, Peer] = {}
        failed: dict[str, str] = {}
        for key in bench.due([*keys]):
            if not peers:
                failed = {side: why for side in GROUPS[group] if (why := bench.missing(side))}
                sides = [side for side in (OURS, *GROUPS[group]) if side not in failed]
                peers = {side: stack.enter_context(opened(side, bench.work)) for side in sides}
            found: dict[str, Any] = {side: {"failed": why} for side, why in failed.items()}
            found |= _in_turns(peers, keys[key], bench.settings)
            for side, one in found.items():
                print(f"{key}, {side}: {one}", flush=True)
            bench.rows[key] = found


def _in_turns(peers: dict[str, Peer], length: str, settings: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {side: {"tokens_per_second": []} for side in peers}
    for _, side in in_turns(peers, settings.turns):
        if "failed" in found[side]:
            continue
        for _ in range(_TRIES):
            answer = peers[side].ask("throughput", length=length, seconds=settings.seconds)
            if answer.get("others", 0.0) < _DISTURBED:
                break
        if "failed" in answer:
            found[side] = answer
            continue
        found[side]["tokens_per_second"].append(rounded(answer["tokens_per_second"]))
        found[side].setdefault("others", []).append(round(answer["others"], 3))
        found[side]["batch_rows"] = answer["rows"]
        if answer["tried"]:
            found[side]["tried"] = {rows: rounded(rate) for rows, rate in answer["tried"].items()}
    return found


def vectors(bench: Bench) -> None:
    """Compare the vectors of every row that was measured; this needs no quiet machine."""
    due: dict[str, list[tuple[str, Answer]]] = {}
    for key, row in bench.rows.items():
        length = key.rpartition(" ")[2]
        for side, one in row.items() if OURS in row else ():
            if "tokens_per_second" in one and "min_cosine" not in one.get("vectors", {}):
                due.setdefault(side, []).append((length, one))
    for side, rows in due.items():
        for length, one in rows:
            file = str(bench.work / f"reference-{length}.npy")
            # A program that breaks down at a batch of one shape may read its texts one by one.
            for size in (one["batch_rows"], 1):
                with opened(side, bench.work) as peer:
                    one["vectors"] = peer.ask("vectors", length=length, rows=size, file=file)
                print(f"{length} tokens, {side}, batches of {size}: {one['vectors']}", flush=True)
                if "failed" not in one["vectors"]:
                    break
        bench.save()


def latency(bench: Bench) -> None:
    """Measure a single query on every side: from the start of its process, and warm."""
    sides = [OURS, *(side for group in GROUPS.values() for side in group)]
    # A single text is never read with compiled layers.
    keys = {f"{LATENCY} {side}": side for side in sides if side != OURS}
    for key in bench.due([*keys]):
        side, cold = keys[key], []
        found: Answer = {"failed": why} if (why := bench.missing(side)) else {}
        for _ in range(0 if found else _COLD_STARTS):
            started = time.perf_counter()
            with opened(side, bench.work) as peer:
                found = peer.ask("first", length=str(QUERY))
                cold.append(rounded(time.perf_counter() - started))
                if "failed" in found:
                    break
                if len(cold) == _COLD_STARTS:
                    found = peer.ask("latency", length=str(QUERY), warm_up=_WARM_UP, count=_QUERIES)
        if "failed" not in found:
            found = {name: rounded(value) for name, value in found.items()} | {"cold_seconds": cold}
        print(f"{key}: {found}", flush=True)
        bench.rows[key] = found


def peak(bench: Bench) -> None:
    """Measure the largest rate of matrix products, the limit of every side."""
    for key in bench.due([PEAK]):
        code = (
            "import json; from benchmarks.speed.measure import _matmul_peak; "
            "print(json.dumps({d: _matmul_peak(d) for d in ('bfloat16', 'float32')}))"
        )
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        bench.rows[key] = {name: rounded(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
        print(f"{key}: {bench.rows[key]}", flush=True)


def plot(rows: dict[str, Any], file: Path) -> None:
    """Draw tokens per second against the length of the texts, a line for each side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8.5, 5.2), layout="constrained")
    dashes = {"float32": ":", "int8": "--", "q8_0": "--", "q4_0": "-."}
    last = []
    markers = dict(zip(dict.fromkeys(name for name, _ in NAMES.values()), "os^Dv*Ph<>", strict=False))
    for side, (name, weights) in NAMES.items():
        points = {length: median(found) for length, found in rates(rows, side).items()}
        if points:
            style = {"linewidth": 2.6, "color": "black"} if side == OURS else {}
            drawn = axis.plot(
                [*points], [*points.values()], dashes.get(weights, "-"), marker=markers[name], markersize=5, **style
            )
            last.append((points[max(points)], drawn[0], f"{name}, {weights}"))
    # The legend lists the sides as their lines end, from the top.
    last.sort(key=lambda one: -one[0])
    axis.legend(
        [line for _, line, _ in last],
        [label for *_, label in last],
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    lengths = sorted({length for side in NAMES for length in rates(rows, side)})
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("tokens a text, without the prompt")
    axis.set_ylabel("text tokens a second")
    axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def command_line() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [PEAK, *GROUPS, LATENCY, VECTORS]
    options.add_argument("--output", type=Path, required=True, help="JSON file to write, or to complete")
    options.add_argument("--work", required=True, help="folder for the model in every format; kept")
    options.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROWS", help=", ".join(names))
    options.add_argument("--lengths", nargs="+", type=int, default=[128, 16, 512], help="tokens of a text")
    options.add_argument("--turns", type=int, default=2, help="of each side")
    options.add_argument("--seconds", type=float, default=8, help="that one turn measures")
    options.add_argument("--minutes", type=float, default=1e9, help="begin no row that would end after so many")
    options.add_argument("--checked", type=int, default=32, help="texts of each length whose vectors are compared")
    options.add_argument("--model", default="llama2vec-smollm2-135m")
    options.add_argument("--layers", type=int, default=0, help="keep only the first layers; 0 = all")
    options.add_argument("--data", default=str(DATA), help="folder with wiki/")
    options.add_argument("--prepare", action="store_true", help="write the files and measure nothing")
    options.add_argument("--plot", type=Path, help="PNG of tokens per second against length")
    return options.parse_args()


def main() -> None:
    """Measure what the output lacks."""
    settings = command_line()
    bench = Bench(settings)
    if settings.prepare or not (bench.work / "facts.json").exists():
        bench.prepare()
    if settings.prepare:
        return
    bench.open()
    for name in settings.only:
        if name == PEAK:
            peak(bench)
        elif name in (LATENCY, VECTORS):
            {LATENCY: latency, VECTORS: vectors}[name](bench)
        else:
            throughput(bench, name)
    if settings.plot:
        plot(bench.rows, settings.plot)


if __name__ == "__main__":
    main()

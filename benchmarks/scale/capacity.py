r"""Machines, memory, hours and cost of a large corpus, from what was measured and from prices that you give.

    python -m benchmarks.scale.capacity --passages 8800000 1000000000 --width 4096 --gpus 8 --gpu-hour 4.00

Every input is printed with its source. What is measured comes from benchmarks/results: passages a second of a 7B model
on one H200 (gpu-h200.json), and bytes and processor time of an index of 10 million passages of width 64 (scale.json).
Prices are placeholders: give your own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.paths import RESULTS
from benchmarks.tables import markdown

MEASURED = "10000000x64"  # The size of scale.json that is scaled up
KINDS = ("faiss-int8", "faiss-binary")


@dataclass(frozen=True)
class Inputs:
    """What the arithmetic rests on; ``measured`` fills in what the results files say."""

    passages_per_second: float  # Encoded by one GPU
    tokens: float  # In such a passage, prompt included
    build_seconds: dict[str, float]  # Processor time of an index at the measured size
    extra_bytes: dict[str, float]  # That an index holds of a passage besides its code
    scan_seconds: float  # Processor time of an exact query for each byte of float16 vectors
    text_bytes: float = 400  # Text, id and title of a passage
    gpus: int = 8
    cores: int = 64  # That build the index
    parts: int = 1  # Indexes that share the passages
    gpu_hour: float = 4.0
    core_hour: float = 0.04
    disk_month: float = 0.08  # For a GB
    memory_month: float = 3.0  # For a GB of a machine that answers queries

    @classmethod
    def measured(cls, results: Path = RESULTS, **given: Any) -> Inputs:
        """Read the results files; ``given`` replaces what is not None."""
        encode = json.loads((results / "gpu-h200.json").read_text(encoding="utf-8"))["encode"]
        found = json.loads((results / "scale.json").read_text(encoding="utf-8"))["sizes"][MEASURED]["indexes"]
        count, width = map(int, MEASURED.split("x"))
        values: dict[str, Any] = {
            "passages_per_second": encode["passages_per_second"],
            "tokens": round(encode["tokens_per_second"] / encode["passages_per_second"]),
            "build_seconds": {kind: found[kind]["build"]["processor"] for kind in KINDS},
            # Its file, which FAISS holds in memory.
            "extra_bytes": {
                kind: found[kind]["build"]["disk_mib"] * 2**20 / count - code_bytes(kind, width) for kind in KINDS
            },
            "scan_seconds": found["exact"]["search"]["p50_ms"] / 1000 / (2 * count * width),
        }
        return cls(**values | {name: value for name, value in given.items() if value is not None})


def code_bytes(kind: str, width: int) -> float:
    """Return the bytes of a vector's numbers in an index.

    >>> code_bytes("faiss-int8", 64), code_bytes("faiss-binary", 64)
    (64, 8.0)
    """
    return width if kind == "faiss-int8" else width / 8


def estimate(passages: int, width: int, inputs: Inputs, tokens: float | None = None) -> dict[str, float]:
    """Return hours, GB and prices of one corpus.

    An index of n passages has 4 x sqrt(n) cells, and its build compares passages with cells: time grows as n to the
    power of 1.5, and as the width.
    """
    count, of_width = map(int, MEASURED.split("x"))
    gpu_hours = passages / inputs.passages_per_second * (tokens or inputs.tokens) / inputs.tokens / 3600
    found = {"gpu_hours": gpu_hours, "encoding_hours": gpu_hours / inputs.gpus, "encoding": gpu_hours * inputs.gpu_hour}
    found |= {f"{name}_gb": passages * width * size / 1e9 for name, size in (("float16", 2), ("int8", 1))}
    found["text_gb"] = passages * inputs.text_bytes / 1e9
    found["disk"] = (found["float16_gb"] + found["text_gb"]) * inputs.disk_month
    for kind in KINDS:
        name, part = kind.removeprefix("faiss-"), passages / inputs.parts
        memory = passages * (code_bytes(kind, width) + inputs.extra_bytes[kind]) / 1e9
        core_hours = inputs.parts * inputs.build_seconds[kind] * (part / count) ** 1.5 * width / of_width / 3600
        found |= {
            f"{name}_memory_gb": memory, f"{name}_core_hours": core_hours,
            f"{name}_build_hours": core_hours / inputs.cores, f"{name}_build": core_hours * inputs.core_hour,
            f"{name}_month": memory * inputs.memory_month,
        }  # fmt: skip
    # 64 vectors a cell train the cells, in float32.
    found["sample_gb"] = 64 * 4 * (passages / inputs.parts) ** 0.5 * width * 4 / 1e9
    return found | {"exact_core_seconds": 2 * passages * width * inputs.scan_seconds}


ROWS = (
    ("encode, GPU hours", "gpu_hours"), ("encode, hours on all GPUs", "encoding_hours"), ("encode, cost", "encoding"),
    ("vectors in float16 on the disk, GB", "float16_gb"), ("vectors in int8 (`--int8`), GB", "int8_gb"),
    ("texts on the disk, GB", "text_gb"), ("float16 and texts on the disk, cost a month", "disk"),
    ("`faiss-int8`: memory, GB", "int8_memory_gb"), ("… build, core hours", "int8_core_hours"),
    ("… build, hours on one machine", "int8_build_hours"), ("… build, cost", "int8_build"),
    ("… memory, cost a month", "int8_month"), ("`faiss-binary`: memory, GB", "binary_memory_gb"),
    ("… build, core hours", "binary_core_hours"), ("… build, hours on one machine", "binary_build_hours"),
    ("… build, cost", "binary_build"), ("… memory, cost a month", "binary_month"),
    ("either: vectors in memory that train one index, GB", "sample_gb"),
    ("exact search, core seconds a query", "exact_core_seconds"),
)  # fmt: skip


def table(cases: list[tuple[int, int, Inputs]], tokens: float | None = None) -> str:
    """Return a Markdown table with a column for each (passages, width, inputs)."""
    found = [estimate(passages, width, inputs, tokens) for passages, width, inputs in cases]
    heads = [
        f"{passages:,} x {width:,}" + (f" in {inputs.parts} indexes" if inputs.parts > 1 else "")
        for passages, width, inputs in cases
    ]
    return markdown([["", *heads], *([title, *(_short(one[key]) for one in found)] for title, key in ROWS)])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def main() -> None:
    """Print the inputs and the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--passages", type=int, nargs="+", default=[8_800_000, 1_000_000_000])
    options.add_argument("--width", type=int, default=4096)
    options.add_argument("--passage-tokens", type=float, help="tokens of your passages, prompt included")
    given = [one.name for one in fields(Inputs) if one.name not in ("build_seconds", "extra_bytes")]
    for name in given:
        options.add_argument(f"--{name.replace('_', '-')}", type=int if name in ("gpus", "cores", "parts") else float)
    arguments = options.parse_args()
    inputs = Inputs.measured(**{name: getattr(arguments, name) for name in given})
    print("\n".join(f"{one.name}: {getattr(inputs, one.name)}" for one in fields(inputs)))
    print(table([(count, arguments.width, inputs) for count in arguments.passages], arguments.passage_tokens))


if __name__ == "__main__":
    main()

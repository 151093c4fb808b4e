"""What ``encoding_peers.py`` found, as tables; apart from it, because the pages are made without a model."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.tables import columns, markdown

OURS = "ours"
NAMES = {
    OURS: ("llama2vec, compiled layers", "bfloat16"),
    "ours-stock": ("llama2vec, stock layers", "bfloat16"),
    "ours-float32": ("llama2vec", "float32"),
    "sentence-transformers": ("sentence-transformers, torch", "bfloat16"),
    "sentence-transformers-onnx": ("sentence-transformers, ONNX", "float32"),
    "sentence-transformers-openvino": ("sentence-transformers, OpenVINO", "float32"),
    "openvino": ("OpenVINO", "bfloat16"),
    "openvino-int8": ("OpenVINO", "int8"),
    "onnxruntime": ("ONNX Runtime", "float32"),
    "onnxruntime-int8": ("ONNX Runtime", "int8"),
    "llama.cpp-bf16": ("llama.cpp", "bfloat16"),
    "llama.cpp-q8_0": ("llama.cpp", "q8_0"),
    "llama.cpp-q4_0": ("llama.cpp", "q4_0"),
    "llama.cpp-wheel-q8_0": ("llama.cpp, wheel of xllamacpp", "q8_0"),
}
"""Each side → the program and the format of its weights."""
EQUAL = 0.999
"""Smallest cosine to the float32 vectors from which a side counts as equal in quality."""
_LIBRARY = "sentence-transformers"

Rows = Mapping[str, Any]


def rates(rows: Rows, side: str) -> dict[int, list[float]]:
    """Return length → tokens per second in every turn of every group that the side was in."""
    found: dict[int, list[float]] = {}
    for length, group in _groups(rows):
        if "tokens_per_second" in group.get(side, {}):
            found.setdefault(length, []).extend(group[side]["tokens_per_second"])
    return dict(sorted(found.items()))


def ratios(rows: Rows, side: str) -> dict[int, float]:
    """Return length → the median over the turns of ours / side."""
    found: dict[int, list[float]] = {}
    for length, group in _groups(rows):
        if "tokens_per_second" in group.get(side, {}) and side != OURS:
            both = zip(group[OURS]["tokens_per_second"], group[side]["tokens_per_second"], strict=True)
            found.setdefault(length, []).extend(one / other for one, other in both)
    return {length: median(turns) for length, turns in sorted(found.items())}


def smallest_cosines(rows: Rows, side: str) -> dict[int, float]:
    """Return length → the smallest cosine to the float32 vectors."""
    found: dict[int, float] = {}
    for length, group in _groups(rows):
        if "min_cosine" in group.get(side, {}).get("vectors", {}):
            found[length] = min(group[side]["vectors"]["min_cosine"], found.get(length, 1.0))
    return found


def table(file: Mapping[str, Any]) -> str:
    """Return the speed of every side, then its cosines and latencies, as Markdown tables, and what did not run."""
    rows = file["rows"]
    lengths = sorted({length for length, _ in _groups(rows)})
    heads = [f"{length} tokens: tokens/s (ours / it)" for length in lengths]
    lines = [["program", "weights", *heads, "cosine, smallest", "mean", "one query, ms (95 %)", "cold start, s"]]
    stopped: dict[str, str] = {}
    for side, (name, weights) in NAMES.items():
        speed, against, cosine = rates(rows, side), ratios(rows, side), smallest_cosines(rows, side)
        query = rows.get(f"latency {side}", {})
        failed = [group[side]["failed"] for _, group in _groups(rows) if "failed" in group.get(side, {})]
        if failed or "failed" in query:
            stopped[f"{name}, {weights}"] = failed[0] if failed else query["failed"]
        if not speed and "p50_ms" not in query:
            continue
        cells = [
            f"{median(speed[length]):,.0f}" + (f" ({against[length]:.2f})" if length in against else "")
            if length in speed else "–"
            for length in lengths
        ]  # fmt: skip
        means = [
            group[side]["vectors"]["mean_cosine"]
            for _, group in _groups(rows)
            if "mean_cosine" in group.get(side, {}).get("vectors", {})
        ]
        cells += [f"{min(cosine.values()):.5f}", f"{min(means):.5f}"] if cosine else ["–", "–"]
        timed = "p50_ms" in query
        cells.append(f"{query['p50_ms']:.0f} ({query['p95_ms']:.0f})" if timed else "–")
        cells.append(f"{median(query['cold_seconds']):.1f}" if timed else "–")
        lines.append([name, weights, *cells])
    notes = [f"- {name}: not measured ({why.partition('. ')[0]})" for name, why in stopped.items()]
    speeds = 2 + len(lengths)
    parts = [columns(lines, places, labels=2) for places in (range(2, speeds), range(speeds, len(lines[0])))]
    return "\n\n".join([*map(markdown, parts), *(["\n".join(notes)] if notes else [])])


def bars(file: Mapping[str, Any]) -> str:
    """Return, for each length, ours beside the best peer of equal quality and beside sentence-transformers."""
    rows, weights = file["rows"], file["model"]["weights"]
    peers = [side for side in NAMES if not side.startswith(OURS)]
    lines = [["tokens a text", "ours, tokens/s", "fastest peer of equal quality", "ours / it",
              "ours / sentence-transformers",
              "of the matrix products' peak"]]  # fmt: skip
    against, cosines = ({side: find(rows, side) for side in peers} for find in (ratios, smallest_cosines))
    for length, turns in rates(rows, OURS).items():
        equal = {
            side: against[side][length]
            for side in peers
            if length in against[side] and cosines[side].get(length, 0.0) >= EQUAL
        }
        best = min(equal, key=lambda side: equal[side]) if equal else None
        cells = [", ".join(NAMES[best]), f"{equal[best]:.2f}"] if best else ["–", "–"]
        library = against[_LIBRARY].get(length)
        read = (length + file["prompt_tokens"]) / length
        reached = 2e-9 * weights * median(turns) * read
        share = f"{reached / rows['peak']['bfloat16']:.0%}" if "peak" in rows else "–"
        lines.append([str(length), f"{median(turns):,.0f}", *cells, f"{library:.2f}" if library else "–", share])
    return markdown(lines)


def _groups(rows: Rows) -> list[tuple[int, Rows]]:
    return [(int(key.rpartition(" ")[2]), group) for key, group in rows.items() if OURS in group]

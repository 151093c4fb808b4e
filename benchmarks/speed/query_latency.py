r"""Measure what one question at a time costs in a warm service: reading it, searching, and the whole answer.

    python -m benchmarks.speed.query_latency runs/index --output benchmarks/results/query-latency-cpu.json

The questions are cut from real passages, each another one. The load of the machine is noted before and after, because
other work slows the model: an idle machine has a load near 0 before the run. The processor time of a question depends
on it least.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

import httpx
import psutil

from benchmarks.provenance import made_by
from benchmarks.speed.turns import rounded
from benchmarks.texts import DATA, documents
from llama2vec.files import write_json

REACH_MS = 150.0
_WARM_UP = 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("index", help="as for `llama2vec serve`")
    options.add_argument("--questions", type=int, default=100)
    options.add_argument("--words", type=int, default=9, help="of a question")
    options.add_argument("--mode", default="hybrid")
    options.add_argument("--data", default=str(DATA), help="folder that the questions are cut from")
    options.add_argument("--output", type=Path, help="JSON file to write")
    settings = options.parse_args()
    source, found_texts = documents(Path(settings.data))
    words = [text.split() for document in found_texts for text in document]
    asked = [" ".join(text[: settings.words]) for text in words if len(text) >= settings.words]
    questions = asked[: settings.questions + _WARM_UP]
    command = [sys.executable, "-m", "llama2vec.cli", "serve", settings.index, "--port", "0"]
    before = os.getloadavg()[0]
    times: dict[str, list[float]] = {"encode_ms": [], "search_ms": [], "took_ms": []}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "http://" not in line:
            raise SystemExit(f"the service did not start: {shlex.join(command)}")
        watched, spent = psutil.Process(process.pid), 0.0
        with httpx.Client(base_url=line.split()[-1], timeout=60) as client:
            for number, question in enumerate(questions):
                if number == _WARM_UP:
                    spent = sum(watched.cpu_times()[:2])
                answer = client.get("/search", params={"q": question, "mode": settings.mode, "group": True})
                found = answer.raise_for_status().json()
                for name, values in times.items() if number >= _WARM_UP else ():
                    values.append(found[name] or 0.0)
        spent = sum(watched.cpu_times()[:2]) - spent
    finally:
        process.terminate()
        process.wait()
    result = {
        "name": "query-latency",
        "mode": settings.mode,
        "questions": len(times["took_ms"]),
        "texts": source,
        "cpu_ms_per_question": rounded(1000 * spent / len(times["took_ms"])),
        "load_before": rounded(before),
        "load_after": rounded(os.getloadavg()[0]),
        "reach_ms": REACH_MS,
    }
    for name, values in times.items():
        cuts = quantiles(values, n=20)
        part = name.removesuffix("_ms")
        result |= {f"{part}_p50_ms": rounded(cuts[9]), f"{part}_p95_ms": rounded(cuts[18])}
    print("\n".join(f"{name}: {value}" for name, value in result.items()))
    if settings.output:
        write_json(settings.output, {**made_by(), "results": [result]})


if __name__ == "__main__":
    main()

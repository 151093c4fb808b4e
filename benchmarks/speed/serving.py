r"""Put load on the HTTP service, with and without the batching of concurrent requests.

    python -m benchmarks.speed.serving --model runs/adapted --output benchmarks/results/serving-cpu.json

Each side is a service in its own process: ``batched`` with the defaults, ``unbatched`` with ``--max-batch 1``. Both
take turns within one run, in reversed order each time. Every client sends one text per request, cut from real passages
and never the same twice in a row, and waits for the answer. The clients share this process and speak bare HTTP, to
leave the processor to the service. The ratio is the median of the turns' ratios. Once the service has warmed up, its
own memory and all resident memory are read every second. They differ by pages of mapped files, above all the weights: a
token's embedding becomes resident when the token is first read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.provenance import made_by
from benchmarks.speed.turns import in_turns, rounded
from benchmarks.texts import DATA, documents
from llama2vec.files import write_json

SIDES = {"batched": [], "unbatched": ["--max-batch", "1"]}
THROUGHPUT, MEMORY = "serve-batched-vs-unbatched", "serve-memory-last-vs-first-quarter"
REACH = {THROUGHPUT: 2.0, MEMORY: 1.05}
_WARM_UP_SECONDS = 2.0


@contextmanager
def service(model: str, dtype: str, options: Sequence[str] = ()) -> Iterator[tuple[psutil.Process, str]]:
    """Start a service on a free port, yield its process and address, and stop it at the end."""
    command = [sys.executable, "-m", "llama2vec.cli", "serve", "--model", model, "--port", "0", "--dtype", dtype]
    command += options
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "http://" not in line:
            raise SystemExit(f"the service did not start: {shlex.join(command)}")
        yield psutil.Process(process.pid), line.split()[-1]
    finally:
        process.terminate()
        process.wait()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> int:
    """Send one request over an open connection, read its answer to the end, return its status."""
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    await reader.readexactly(length)
    return int(lines[0].split()[1])


async def client(
    address: str, bodies: Sequence[bytes], ends: float, latencies: list[float], statuses: list[int]
) -> None:
    """Send one request after the other until the time is over; a broken connection counts as status 0."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    number = 0
    while (started := time.monotonic()) < ends:
        try:
            status = await ask(reader, writer, bodies[number % len(bodies)])
        except (OSError, EOFError):
            status = 0
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
        latencies.append(time.monotonic() - started)
        statuses.append(status)
        number += 1
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def load(
    process: psutil.Process, address: str, settings: argparse.Namespace, texts: Sequence[str]
) -> dict[str, Any]:
    """Run all clients at once; return what they measured and the memory of the service."""
    bodies = [
        json.dumps({"input": text, "input_type": "query", "encoding_format": "base64"}).encode() for text in texts
    ]

    async def clients(seconds: float, latencies: list[float], statuses: list[int]) -> None:
        ends = time.monotonic() + seconds
        each = [bodies[number :: settings.clients] for number in range(settings.clients)]
        await asyncio.gather(*(client(address, own, ends, latencies, statuses) for own in each))

    async def watch(resident: list[float], own: list[float]) -> None:
        while True:
            memory = process.memory_info()
            resident.append(memory.rss / 2**20)
            # Only Linux distinguishes the two.
            own.append((memory.rss - getattr(memory, "shared", 0)) / 2**20)
            await asyncio.sleep(min(1.0, settings.seconds / 8))

    await clients(_WARM_UP_SECONDS, [], [])
    latencies, statuses, resident, own = list[float](), list[int](), list[float](), list[float]()
    watching = asyncio.create_task(watch(resident, own))
    started = time.monotonic()
    await clients(settings.seconds, latencies, statuses)
    seconds = time.monotonic() - started
    watching.cancel()
    latencies.sort()
    return {
        "requests_per_second": statuses.count(200) / seconds,
        "requests": len(statuses),
        "errors": len(statuses) - statuses.count(200),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p95_ms": 1000 * latencies[int(0.95 * len(latencies))],
        "resident_mib": resident,
        "own_mib": own,
    }


def rows(
    found: dict[str, list[dict[str, Any]]], settings: argparse.Namespace, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return throughput and memory in the shape that all speed measurements share."""
    ours, peer = found["batched"], found["unbatched"]
    turns = [one["requests_per_second"] / other["requests_per_second"] for one, other in zip(ours, peer, strict=True)]
    throughput = {
        "name": THROUGHPUT,
        "ratio": rounded(median(turns)),
        "ours": rounded(median(turn["requests_per_second"] for turn in ours)),
        "peer": rounded(median(turn["requests_per_second"] for turn in peer)),
        "unit": "requests/s",
        **facts,
        "turns": [rounded(turn) for turn in turns],
        "reach": REACH[THROUGHPUT],
    }
    for side, name in ((ours, "ours"), (peer, "peer")):
        throughput[f"{name}_errors"] = sum(turn["errors"] for turn in side)
        for key in ("p50_ms", "p95_ms"):
            throughput[f"{name}_{key}"] = rounded(median(turn[key] for turn in side))
    growth = []
    for turn in ours:
        own = turn["own_mib"]
        quarter = max(1, len(own) // 4)
        growth.append((median(own[-quarter:]), median(own[:quarter])))
    worst = max(growth, key=lambda pair: pair[0] / pair[1])
    memory = {
        "name": MEMORY,
        "ratio": rounded(worst[0] / worst[1]),
        "ours": rounded(worst[0]),
        "peer": rounded(worst[1]),
        "unit": "MiB",
        **facts,
        **{key: [[rounded(value) for value in turn[key]] for turn in ours] for key in ("own_mib", "resident_mib")},
        "reach": REACH[MEMORY],
    }
    return [throughput, memory]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m", help="as for `llama2vec serve --model`")
    options.add_argument("--dtype", default="auto")
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--seconds", type=float, default=60.0, help="of a turn, after warming up")
    options.add_argument("--repetitions", type=int, default=1, help="turns of each side")
    options.add_argument("--words", type=int, default=12, help="of a text")
    options.add_argument("--data", default=str(DATA), help="folder that the texts are cut from")
    options.add_argument("--output", type=Path, help="JSON file to write")
    settings = options.parse_args()
    source, passages = documents(Path(settings.data))
    words = [passage.split() for document in passages for passage in document]
    texts = [" ".join(row[: settings.words]) for row in words if len(row) >= settings.words][: 64 * settings.clients]
    if len(texts) < settings.clients:
        raise SystemExit(f"{settings.data} has only {len(texts)} texts of {settings.words} words")
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number, side in in_turns(SIDES, settings.repetitions):
        with service(settings.model, settings.dtype, SIDES[side]) as (process, address):
            turn = asyncio.run(load(process, address, settings, texts))
        found[side].append(turn)
        print(
            f"  {side:<10} turn {number}: {turn['requests_per_second']:7.1f} requests/s, p50 "
            f"{turn['p50_ms']:.0f} ms, p95 {turn['p95_ms']:.0f} ms, {turn['errors']} errors",
            file=sys.stderr,
        )
    facts = {"model": Path(settings.model).name, "dtype": settings.dtype, "clients": settings.clients}
    facts |= {"seconds": settings.seconds, "texts": source, "words": settings.words}
    ratios = rows(found, settings, facts)
    for row in ratios:
        print(f"{row['name']:<36} {row['ratio']:6.2f}  ({row['ours']} / {row['peer']} {row['unit']})")
    if settings.output:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(settings.output, {**made_by(), "ratios": ratios})


if __name__ == "__main__":
    main()

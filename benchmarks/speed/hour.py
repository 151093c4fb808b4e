r"""One user's hour: 20,000 passages of about 120 words, from files to hybrid search, timed stage by stage.

    python -m benchmarks.speed.hour --work runs/hour --output benchmarks/results/hour.json

The files are Wikipedia passages of 80 to 160 words (``wiki/train.jsonl.gz``), in the order of that file, one text file
each in a folder for each article. Each stage is the command that a user types, in a process of its own, timed from its
start to its end:

- ``read``: ``llama2vec read`` reads and splits all files;
- ``words``: ``llama2vec ask --words`` reads, splits and indexes all files and answers a question by BM25;
- ``start``: ``llama2vec encode`` of 8 passages, nearly all of it the start of the program and the model;
- ``encode``: ``llama2vec encode``, with ``model.compile`` as it is (``auto``), and with ``false``, as it was before;
- ``index``: ``llama2vec index --bm25``;
- ``search``: ``llama2vec search`` answers a question by vectors and BM25, its files in the page cache.

``--share N`` encodes the first N passages only. The table multiplies its seconds without ``start`` and says so. With
``--minutes`` an encoding that takes longer is interrupted as by Ctrl-C; the same command resumes it and adds the times.
Stages that the output has are not measured again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.provenance import made_by
from benchmarks.speed.turns import rounded
from benchmarks.texts import DATA
from llama2vec.files import write_json

WORDS, QUESTION = (80, 160), "Which treaty ended the war between the two empires?"
COMPILE = {"before": "false", "after": "auto"}
_TIMES, _FEW = 3, 8  # Runs of the short stages; passages of ``start``
_SETTLE_SECONDS = 5.0


class Hour:
    """The stages of one corpus, and their results."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.work = settings, Path(settings.work)
        known = json.loads(settings.output.read_text(encoding="utf-8")) if settings.output.is_file() else {}
        if known.get("model", settings.model) != settings.model:
            raise SystemExit(f"{settings.output} is of the model {known['model']}; choose another --output")
        self.rows: dict[str, Any] = known.get("rows", {})
        self.corpus: dict[str, Any] = known.get("corpus", {})
        self.started = time.monotonic()
        self.files, self.passages = self.work / "files", self.work / "passages.jsonl"

    def write_files(self) -> None:
        """Write the files, unless they are there."""
        if self.files.exists() and self.corpus:
            return
        shutil.rmtree(self.files, ignore_errors=True)
        lengths = []
        for row in islice(passages(Path(self.settings.data)), self.settings.passages):
            file = self.files / row["id"].rpartition("-")[0] / f"{row['id']}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(row["text"] + "\n", encoding="utf-8")
            lengths.append(len(row["text"].split()))
        self.corpus = {"source": "wiki/train.jsonl.gz", "files": len(lengths), "words": rounded(fmean(lengths))}
        self.save()

    def measure(self) -> None:
        """Run the stages that the output lacks."""
        self._short("read", ["read", str(self.files), "-o", str(self.passages)], self.passages)
        index = self.work / "words"
        asked = ["ask", str(self.files), QUESTION, "--words", "--model", self.settings.model, "--index", str(index)]
        self._short("words", asked, index)
        store = self.work / "store-start"
        starting = ["encode", self.settings.model, str(self._first(_FEW)), "-o", str(store)]
        self._short("start", starting, store, passages=_FEW)
        for name in COMPILE:
            if name in self.settings.only:
                self._encode(name)

    def _first(self, count: int) -> Path:
        """Return a file of the first passages."""
        rows = self.work / f"{count}.jsonl"
        if not rows.exists():
            with self.passages.open(encoding="utf-8") as lines:
                rows.write_text("".join(islice(lines, count)), encoding="utf-8")
        return rows

    def _encode(self, name: str) -> None:
        """Encode with one setting, then index and search what it made."""
        count = self.settings.share or self.corpus["files"]
        store, index = self.work / f"store-{name}", self.work / f"index-{name}"
        row = self.rows.setdefault(f"encode {name}", {"passages": count, "compile": COMPILE[name], "windows": []})
        if row["passages"] != count:
            raise SystemExit(
                f"{self.settings.output}: its encoding is of {row['passages']} passages; give another file"
            )
        if "seconds" not in row:
            command = ["encode", self.settings.model, str(self._first(count)), "-o", str(store)]
            command += ["--set", f"model.compile={COMPILE[name]}", "--shard-size", str(self.settings.shard_size)]
            seconds, finished = self._run(command, interrupt=True)
            row["windows"].append(rounded(seconds))
            if finished:
                row["seconds"] = rounded(sum(row["windows"]))
            print(f"encode {name}: {row}", flush=True)
            self.save()
        if name == "after" and "seconds" in row:
            self._short("index", ["index", str(store), "-o", str(index), "--bm25"], index, passages=count)
            self._short("search", ["search", str(index), QUESTION], None, passages=count)

    def _short(self, name: str, arguments: list[str], made: Path | None, **facts: Any) -> None:
        """Run a stage a few times, each time from nothing."""
        if name in self.rows and (made is None or made.exists()):
            return
        times = []
        for _ in range(_TIMES):
            if made and made.is_dir():
                shutil.rmtree(made)
            elif made:
                made.unlink(missing_ok=True)
            times.append(rounded(self._run(arguments)[0]))
        self.rows[name] = {"passages": self.corpus["files"], **facts, "times": times, "seconds": median(times)}
        print(f"{name}: {self.rows[name]}", flush=True)
        self.save()

    def _run(self, arguments: list[str], *, interrupt: bool = False) -> tuple[float, bool]:
        """Return the seconds of a command, and whether it came to its end."""
        left = 60 * self.settings.minutes - (time.monotonic() - self.started)
        if interrupt and left < _SETTLE_SECONDS:
            raise SystemExit("no time is left; the same command goes on")
        command = [sys.executable, "-m", "llama2vec.cli", *arguments]
        started = time.perf_counter()
        with (self.work / "log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                status = process.wait(left - _SETTLE_SECONDS if interrupt else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                process.wait()
                return time.perf_counter() - started, False
        if status:
            raise SystemExit(f"status {status} of llama2vec {shlex.join(arguments)}: see {self.work / 'log'}")
        return time.perf_counter() - started, True

    def save(self) -> None:
        """Write what there is."""
        found = {"model": self.settings.model, "corpus": self.corpus, "rows": self.rows}
        write_json(self.settings.output, made_by() | found)


def passages(data: Path) -> Iterator[dict[str, str]]:
    """Yield the passages of the right length."""
    with gzip.open(data / "wiki" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if WORDS[0] <= len(row["text"].split()) <= WORDS[1]:
                yield row


def table(file: Mapping[str, Any]) -> str:
    """Return the seconds of each stage for all passages as a Markdown table."""
    rows, count = file["rows"], file["corpus"]["files"]
    lines = ["| stage | passages measured | seconds | for all |", "|---|---|---|---|"]
    named = {
        "read": "`read`: files read and split",
        "words": "`ask --words`: from files to the first answer by BM25",
        "start": "`encode` of 8 passages: the start of program and model, part of the next two",
        "encode before": "`encode`, `model.compile=false`",
        "encode after": "`encode`, as shipped (`auto`)",
        "index": "`index --bm25`",
        "search": "`search`: from the shell to the first hybrid answer",
    }
    for key, name in named.items():
        row = rows.get(key, {})
        if "seconds" in row:
            whole, note = row["seconds"], ""
            if key not in ("start", "search") and row["passages"] != count:
                fixed = rows.get("start", {}).get("seconds", 0.0) if key.startswith("encode") else 0.0
                whole, note = fixed + (whole - fixed) * count / row["passages"], ", extrapolated"
            minutes = f"{whole / 60:.1f} minutes" if whole > 100 else f"{whole:.1f} s"
            lines.append(f"| {name} | {row['passages']:,} | {row['seconds']:,.1f} | {minutes}{note} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what the output lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, required=True, help="JSON file to write, or to complete")
    options.add_argument("--work", required=True, help="folder for files, stores and indexes; kept")
    options.add_argument("--passages", type=int, default=20_000)
    options.add_argument("--share", type=int, default=0, help="passages to encode; 0 = all")
    options.add_argument("--only", nargs="+", choices=[*COMPILE], default=[*COMPILE], help="encodings to time")
    options.add_argument("--minutes", type=float, default=1e6, help="interrupt an encoding then")
    options.add_argument("--shard-size", type=int, default=2048, help="passages that an interruption loses at most")
    options.add_argument("--model", default="llama2vec-smollm2-135m")
    options.add_argument("--data", default=str(DATA), help="folder with wiki/")
    options.add_argument("--prepare", action="store_true", help="write the files and measure nothing")
    settings = options.parse_args()
    Path(settings.work).mkdir(parents=True, exist_ok=True)
    hour = Hour(settings)
    hour.write_files()
    if not settings.prepare:
        hour.measure()
        print(table({"rows": hour.rows, "corpus": hour.corpus}))


if __name__ == "__main__":
    main()

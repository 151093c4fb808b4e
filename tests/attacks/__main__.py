"""``python -m tests.attacks``: run the attacks, count them by verb, and say how to repeat each one that succeeded."""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

# Read when the libraries are imported: threads would not survive a fork, and nothing may ask the network.
os.environ |= {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TERM": "dumb",
}  # fmt: skip

KINDS = ("kills", "damages", "invocations", "disk-full")


def main() -> int:
    """Return 0 if every attack was withstood."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, help="how many of these attacks")
    parser.add_argument("--seed", type=int, default=0, help="an attack follows from seed, kind and number")
    parser.add_argument("--only", action="append", default=[], metavar="KIND:NUMBER", help="repeat one attack")
    parser.add_argument("--json", type=Path, help="also write the counts so far to this file")
    parser.add_argument("--work", type=Path, help="keep inputs and logs here")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="llama2vec-attacks-"))
    os.environ |= {
        "LLAMA2VEC_CACHE": str(work / "cache"),
        "HF_HOME": str(work / "hub"),
        "MPLCONFIGDIR": str(work / "mpl"),
    }
    from .disk_full import private_mounts

    private_mounts()
    chosen = [(kind, number) for kind in KINDS for number in range(getattr(options, kind.replace("-", "_")))]
    chosen += [(kind, int(number)) for kind, _, number in (one.partition(":") for one in options.only)]
    return _run(chosen, options.seed, work.resolve(), options.json)


def _run(chosen: list[tuple[str, int]], seed: int, work: Path, summary: Path | None) -> int:
    from .children import preload
    from .commands import References
    from .damages import Damages
    from .disk_full import DiskFull
    from .invocations import Invocations
    from .kills import Kills
    from .site import Site

    preload()
    site = Site(work)
    site.make()
    references = References(site)
    attacks = {one.name: one for one in (kind(references) for kind in (Kills, Damages, Invocations, DiskFull))}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    failures: list[dict[str, object]] = []
    started = time.monotonic()
    for kind, number in chosen:
        try:
            command, problem = attacks[kind].attack(random.Random(f"{seed}:{kind}:{number}"))
            argv = command.argv
        except Exception:
            argv, problem = ["harness"], " ".join(traceback.format_exc().splitlines()[-4:])
        counts[kind][argv[0] if argv else ""] += 1
        if problem:
            repeat = f"python -m tests.attacks --only {kind}:{number} --seed {seed}"
            failures.append({"repeat": repeat, "argv": argv, "problem": problem})
            print(f"FAILED {repeat}\n  llama2vec {shlex.join(argv)[:600]!a}\n  {problem}", flush=True)
        if summary:  # after each, so that a run that is stopped has counted, too
            found = {"seed": seed, "counts": counts, "failures": failures, "seconds": time.monotonic() - started}
            summary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for kind, verbs in counts.items():
        if verbs:
            by_verb = ", ".join(f"{verb} {count}" for verb, count in sorted(verbs.items()))
            print(f"{kind}: {verbs.total()} ({by_verb})")
    seconds = time.monotonic() - started
    print(
        f"{len(failures)} of {len(chosen)} attacks succeeded, in {seconds:,.0f} s; inputs and logs: {work}", flush=True
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

r"""Draw what training time buys: nDCG@10 against minutes of two CPU cores, by vectors alone and together with BM25.

    python -m benchmarks.quality.budget --plot docs/budget.png

Every point is in the committed results: `study.json`, and the files of `hybrid.py`. Averages go over the samples of
five sets, which are easier than the whole sets. The note of a point says where its minutes come from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.paths import RESULTS
from benchmarks.study.cells import Arm, adapted, raw_mean, tuned
from benchmarks.study.comparisons import Scores
from benchmarks.study.protocol import load_protocol
from benchmarks.study.results import read_results
from benchmarks.tables import markdown

PEER, HYBRID, STS = "all-MiniLM-L6-v2", "min-max({}+bm25)", "stsb/en-dev.tsv"
READY = "ready model: those, and 215,040 pairs on a GPU"
VARIED_MINUTES = 180.0
"""Six hours of one core, as the card of the ready model says of all its trainings but the last."""
LONGER_MINUTES = 71.0
"""Half of one core's 142: adapt-log.jsonl and finetune-log.jsonl of the ready model, 120 and 100 steps."""
WRITTEN_MINUTES = 20.0
"""Half of one core's 39: adaptation 2, questions for 2,000 passages 35, fine-tuning 2, read off progress lines."""

_BESIDE = {
    "adapted on plain text": ((6, -12), "left"),
    "… and pairs made of the corpora": ((-6, 4), "right"),
    "… and 1,750 labels": ((2, 6), "left"),
    "… and 7,200 labels": ((-8, -2), "right"),
}
"""Where the name of a point stands; the rest stand below theirs."""


class Point(NamedTuple):
    """A system: minutes of training on two cores, its scores by vectors alone, with BM25 and on STS-B dev, if known."""

    name: str
    minutes: float
    vectors: float
    hybrid: float | None = None
    sts: float | None = None


def points(results: Path = RESULTS) -> list[Point]:
    """Return the systems, the shortest training first."""
    protocol = load_protocol("cpu")
    scores = Scores(read_results(results / "study.json"), protocol)
    both = adapted(protocol, "both")
    corpus, labels = tuned(both, "corpus"), tuned(both)
    long = Scores(read_results(results / "study.json"), load_protocol("long-300"))
    found = [
        _of_study(scores, raw_mean(), "raw, mean pooling"),
        _of_study(scores, both, "adapted on plain text")._replace(hybrid=_row(results, "adapted", HYBRID)),
        _of_study(scores, corpus, "… and pairs made of the corpora")._replace(hybrid=_row(results, "corpus", HYBRID)),
        _of_study(scores, labels, "… and 1,750 labels"),
        _of_file(results, "questions", "… and questions that the LLM wrote", WRITTEN_MINUTES),
        _of_file(results, "7200-labels", "… and 7,200 labels", _minutes(long, tuned(both))),
        _of_file(results, "6400-pairs", "longer adaptation and 6,400 labels", LONGER_MINUTES),
        _of_file(results, "24320-pairs", "24,320 pairs of many kinds", VARIED_MINUTES),
    ]
    return sorted(found, key=lambda one: one.minutes)


def _of_study(scores: Scores, arm: Arm, name: str) -> Point:
    sts = scores.of(arm, STS, "spearman").values()
    return Point(name, _minutes(scores, arm), fmean(scores.average(arm).values()), sts=fmean(sts) if sts else None)


def _of_file(results: Path, file: str, name: str, minutes: float) -> Point:
    sts = _read(results, file).get("sts", {}).get(STS)
    vectors, hybrid = (_row(results, file, row) for row in ("{}", HYBRID))
    return Point(name, minutes, vectors, hybrid, sts and sts["spearman"])


def references(results: Path = RESULTS) -> dict[str, float]:
    """Return the scores of systems that are not trained on these cores."""
    rows = {"BM25": "bm25", PEER: PEER, f"{PEER} with BM25": HYBRID.format(PEER)}
    rows |= {READY: "dense", f"{READY}, with BM25": HYBRID.format("dense")}
    return {name: _row(results, "ready", row) for name, row in rows.items()}


def table(results: Path = RESULTS) -> str:
    """Return the points as a Markdown table."""
    rows = [["training", "minutes on two cores", "vectors", "with BM25", "STS-B dev"]]
    rows += [
        [one.name, f"{one.minutes:,.0f}", *map(_decimals, (one.vectors, one.hybrid, one.sts))]
        for one in points(results)
    ]
    found, minutes = references(results), f"{VARIED_MINUTES:.0f}, and 7 of an H100"
    whole = json.loads((results / "whole-sets-ready.json").read_text(encoding="utf-8"))
    scores = (found[READY], found[f"{READY}, with BM25"], whole["sts"]["en-dev"]["vectors"]["spearman"])
    return markdown([*rows, [READY, minutes, *map(_decimals, scores)]])


def _decimals(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def _minutes(scores: Scores, arm: Arm) -> float:
    """Return the mean minutes of all trainings of an arm on the processor that made the first of them."""
    total = 0.0
    for stage, one in (("adapt", arm.start), ("finetune", arm)):
        records = (scores.by_arm.get(one) or scores.by_arm[arm]).values()  # A budget may have kept the last stage alone
        trainings = [record["training"][stage] for record in records if stage in record["training"]]
        same = [facts for facts in trainings if facts["machine"] == trainings[0]["machine"]]
        total += fmean(facts["seconds"] for facts in same) / 60 if same else 0.0
    return total


def _read(results: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / f"hybrid-smollm2-{name}-cpu.json").read_text(encoding="utf-8"))
    return content


def _row(results: Path, name: str, row: str) -> float:
    """Return the average of a row of a file of ``hybrid.py``; ``{}`` in its name stands for the vectors."""
    found = _read(results, name)
    return fmean(
        found["tasks"][task]["rows"][row.format("dense")]["nDCG@10"] for task in found["settings"]["sets"]["average"]
    )


def plot(file: Path) -> None:
    """Draw the points and the references."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8.5, 5.6), layout="constrained")
    found = points()
    minutes = [max(one.minutes, 1) for one in found]
    axis.plot(minutes, [one.vectors for one in found], "o", color="black", label="vectors alone")
    axis.plot(minutes, [one.hybrid for one in found], "s", color="tab:blue", label="with BM25")
    for place, one in zip(minutes, found, strict=True):
        offset, side = _BESIDE.get(one.name, ((0, -16), "center"))
        axis.annotate(one.name, (place, one.vectors), offset, textcoords="offset points", fontsize=8, ha=side)
    looks = [("gray", ":"), ("gray", "--"), ("gray", "-."), ("black", "-"), ("tab:blue", "-")]
    for (name, score), (color, style) in zip(references().items(), looks, strict=True):
        axis.axhline(score, color=color, linestyle=style, linewidth=1, label=name)
    axis.set_xscale("log")
    axis.set_xlim(0.6, 400)
    axis.set_xticks([1, 5, 10, 20, 60, 180], ["none", "5", "10", "20", "60", "180"])
    axis.minorticks_off()
    axis.set_ylim(0.15, 0.9)
    axis.set_xlabel("minutes of training on two CPU cores")
    axis.set_ylabel("nDCG@10, average of five samples")
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Print the table and draw the picture."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--plot", type=Path, help="PNG to write")
    arguments = options.parse_args()
    print(table())
    if arguments.plot:
        plot(arguments.plot)


if __name__ == "__main__":
    main()

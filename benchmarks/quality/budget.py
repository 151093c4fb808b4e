r"""Draw what training time buys: nDCG@10 against minutes of two CPU cores, by vectors alone and together with BM25.

    python -m benchmarks.quality.budget --plot docs/budget.png

Every point is in the committed results: `study.json`, and the files of `hybrid.py`. Averages go over the samples of
five sets, which are easier than the whole sets. Minutes are those of the trainings in `study.json`, on the processor
that made the first of them, and what the card of the ready model says of its trainings on a CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.paths import RESULTS
from benchmarks.study.cells import Arm, adapted, raw_mean, tuned
from benchmarks.study.comparisons import Scores
from benchmarks.study.protocol import load_protocol
from benchmarks.study.results import read_results
from benchmarks.tables import markdown

PEER, HYBRID = "all-MiniLM-L6-v2", "min-max({}+bm25)"
READY = "ready model: those, and 215,040 pairs on a GPU"
VARIED_MINUTES = 180.0
"""Six hours of one core, as the card of the ready model says of all its trainings but the last."""


_BESIDE = {"and pairs made of the corpora": ((-4, -16), "right"), "and 1,750 labels": ((8, -4), "left")}
"""Where the name of a point stands that others come close to; the rest stand below theirs."""


class Point(NamedTuple):
    """A system: minutes of training on two cores, its score by vectors alone, and with BM25 where that was measured."""

    name: str
    minutes: float
    vectors: float
    hybrid: float | None = None


def points(results: Path = RESULTS) -> list[Point]:
    """Return the systems, the shortest training first."""
    protocol = load_protocol("cpu")
    scores = Scores(read_results(results / "study.json"), protocol)
    both = adapted(protocol, "both")
    arms = {
        "raw, mean pooling": raw_mean(),
        "adapted on plain text": both,
        "… and pairs made of the corpora": tuned(both, "corpus"),
        "… and 1,750 labels": tuned(both),
    }
    corpus, varied = (_hybrid(results / f"hybrid-smollm2-{name}-cpu.json") for name in ("corpus", "24320-pairs"))
    found = [
        Point(
            name,
            _minutes(scores, arm),
            fmean(scores.average(arm).values()),
            corpus[1] if arm.stage == "corpus" else None,
        )
        for name, arm in arms.items()
    ]
    return [*found, Point("24,320 pairs of many kinds", VARIED_MINUTES, *varied)]


def references(results: Path = RESULTS) -> dict[str, float]:
    """Return the scores of systems that are not trained on these cores."""
    file = results / "hybrid-smollm2-ready-cpu.json"
    rows = {"BM25": "bm25", PEER: PEER, f"{PEER} with BM25": HYBRID.format(PEER)}
    rows |= {READY: "dense", f"{READY}, with BM25": HYBRID.format("dense")}
    return {name: _average(file, row) for name, row in rows.items()}


def table(results: Path = RESULTS) -> str:
    """Return the points as a Markdown table."""
    rows = [["training", "minutes on two cores", "vectors", "with BM25"]]
    rows += [
        [one.name, f"{one.minutes:,.0f}", f"{one.vectors:.3f}", "–" if one.hybrid is None else f"{one.hybrid:.3f}"]
        for one in points(results)
    ]
    found, minutes = references(results), f"{VARIED_MINUTES:.0f}, and 7 of an H100"
    rows.append([READY, minutes, *(f"{found[name]:.3f}" for name in (READY, f"{READY}, with BM25"))])
    return markdown(rows)


def _minutes(scores: Scores, arm: Arm) -> float:
    """Return the mean minutes of all trainings of an arm on the processor that made the first of them."""
    total = 0.0
    for stage, one in (("adapt", arm.start), ("finetune", arm)):
        trainings = [record["training"][stage] for record in scores.by_arm[one].values() if stage in record["training"]]
        same = [facts for facts in trainings if facts["machine"] == trainings[0]["machine"]]
        total += fmean(facts["seconds"] for facts in same) / 60 if same else 0.0
    return total


def _hybrid(file: Path) -> tuple[float, float]:
    return _average(file, "dense"), _average(file, HYBRID.format("dense"))


def _average(file: Path, row: str) -> float:
    found = json.loads(file.read_text(encoding="utf-8"))
    return fmean(found["tasks"][name]["rows"][row]["nDCG@10"] for name in found["settings"]["sets"]["average"])


def plot(file: Path) -> None:
    """Draw the points and the references."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8.5, 4.6), layout="constrained")
    found = points()
    minutes = [max(one.minutes, 1) for one in found]
    axis.plot(minutes, [one.vectors for one in found], "o", color="black", label="vectors alone")
    axis.plot(minutes, [one.hybrid for one in found], "s", color="tab:blue", label="with BM25")
    for place, one in zip(minutes, found, strict=True):
        offset, side = _BESIDE.get(one.name.partition(" ")[2], ((0, -16), "center"))
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

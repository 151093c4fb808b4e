"""The tables of ``whole_sets.py``, which load no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables import ABSENT, markdown, spaced, transposed
from llama2vec.score.report.text import p_value_text

AVERAGE = ("cranfield", "scifact", "squad-dev", "medquad", "msmarco-5k")
SETS = (*AVERAGE, "cacm")
STS = ("en-dev", "en-test")
OURS, WORDS, PEER = "vectors", "BM25", "all-MiniLM-L6-v2"
JOINED = {f"{OURS} + {WORDS}": OURS, f"{PEER} + {WORDS}": PEER}
ROWS = (OURS, WORDS, PEER, *JOINED)
MEASURE = "nDCG@10"


def scores(results: Mapping[str, Any]) -> str:
    """Return a line per set with nDCG@10 of every system and its interval, then the average and STS-B."""
    names = [name for name in SETS if name in results["sets"]]
    lines = [["", *names, f"average of {len(results.get('averaged', ()))}", "STS-B dev", "STS-B test"]]
    for row in ROWS:
        cells = [_scored(results["sets"][name]["rows"][row], MEASURE) for name in names]
        average = results.get("average", {}).get(row)
        sts = [results["sts"].get(name, {}).get(row) for name in STS]
        lines.append(
            [
                row,
                *cells,
                ABSENT if average is None else f"**{average:.3f}**",
                *(ABSENT if one is None else _scored(one, "spearman") for one in sts),
            ]
        )
    return markdown(transposed(lines))


def tests(results: Mapping[str, Any]) -> str:
    """Return every difference of two rows' averages, with its interval and p."""
    lines = [["first", "second", "second − first", "p"]]
    for one in results.get("comparisons", []):
        low, high = one["interval"]
        difference = f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append([one["first"], one["second"], difference, p_value_text(one["p"])])
    return markdown(lines)


def _scored(found: Mapping[str, Any], measure: str) -> str:
    low, high = found["interval"]
    return spaced(f"{found[measure]:.3f}", f"[{low:.3f}, {high:.3f}]")

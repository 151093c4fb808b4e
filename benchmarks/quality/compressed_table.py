"""What ``compressed.py`` found, as a table; apart from it, because the pages are made without a model."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from benchmarks.tables import markdown

MEASURE = "nDCG@10"
_SHOWN = 4  # Candidates a hit; the table leaves out the other numbers


def table(sets: dict[str, Any]) -> str:
    """Return bytes, and the share of nDCG@10 that each set keeps, as a Markdown table."""
    largest = max(sets.values(), key=lambda one: len(one["variants"]))
    rows = [["vectors", "bytes", *sets, "mean"]]
    for name, facts in largest["variants"].items():
        if "candidates" in name and not name.endswith(f" {_SHOWN} candidates a hit"):
            continue
        found = [one["variants"] for one in sets.values()]
        kept = [one[name][MEASURE] / one["float32"][MEASURE] if name in one else math.nan for one in found]
        mean = fmean(value for value in kept if not math.isnan(value))
        cells = ["–" if math.isnan(value) else f"{value:.3f}" for value in (*kept, mean)]
        rows.append([name, f"{facts['bytes']:,}", *cells])
    return markdown(rows)

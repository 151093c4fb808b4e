"""What ``compressed.py`` found, as tables; apart from it, because the pages are made without a model."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from benchmarks.tables import ABSENT, columns, markdown

MEASURE = "nDCG@10"
_SHOWN = ", 4 candidates a hit"  # The tables leave out the other numbers


def table(sets: dict[str, Any]) -> str:
    """Return bytes and the mean share of nDCG@10 that is kept, then that of each set, as Markdown tables."""
    largest = max(sets.values(), key=lambda one: len(one["variants"]))
    rows = [["vectors", "bytes", "mean", *sets]]
    for name, facts in largest["variants"].items():
        if "candidates" in name and not name.endswith(_SHOWN):
            continue
        found = [one["variants"] for one in sets.values()]
        kept = [one[name][MEASURE] / one["float32"][MEASURE] if name in one else math.nan for one in found]
        mean = fmean(value for value in kept if not math.isnan(value))
        cells = [ABSENT if math.isnan(value) else f"{value:.3f}" for value in (mean, *kept)]
        rows.append([name, f"{facts['bytes']:,}", *cells])
    by_set = markdown(columns(rows, range(3, len(rows[0]))))
    return f"{markdown(_means(rows))}\n\n<details>\n<summary>Set by set</summary>\n\n{by_set}\n\n</details>"


def _means(rows: list[list[str]]) -> list[list[str]]:
    """Return a line per code with its mean, ranked by the code alone and ranked again by the store's vectors."""
    reranked = {name.removesuffix(_SHOWN): mean for name, _, mean, *_ in rows if name.endswith(_SHOWN)}
    codes = [row[:3] for row in rows[1:] if not row[0].endswith(_SHOWN)]
    return [[*rows[0][:3], f"mean{_SHOWN}"], *([*code, reranked.get(code[0], ABSENT)] for code in codes)]

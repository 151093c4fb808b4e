"""The tables of ``compressed.py``, on results made by hand."""

from __future__ import annotations

from typing import Any

from benchmarks.quality.compressed_table import table


def kept(**scores: float) -> dict[str, Any]:
    return {"variants": {name: {"bytes": 8, "nDCG@10": score} for name, score in scores.items()}}


def test_means_stand_before_the_sets_and_candidates_beside_their_code() -> None:
    again = {"binary, 2 candidates a hit": 0.1, "binary, 4 candidates a hit": 0.5}
    one, two = kept(float32=0.5, binary=0.4, **again), kept(float32=0.8, binary=0.8)
    means, sets = table({"one": one, "two": two}).split("<details>")
    assert means.splitlines()[0] == "| vectors | bytes | mean | mean, 4 candidates a hit |"
    assert means.splitlines()[2:4] == ["| float32 | 8 | 1.000 | – |", "| binary | 8 | 0.900 | 1.000 |"]
    assert "| vectors | one | two |" in sets
    assert "| binary | 0.800 | 1.000 |" in sets
    assert "| binary, 4 candidates a hit | 1.000 | – |" in sets
    assert "2 candidates" not in sets
    # GitHub reads a table inside HTML only between empty lines.
    assert "\n\n| vectors" in sets
    assert sets.endswith("|\n\n</details>")

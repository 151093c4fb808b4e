"""Whole sets are scored in parts as they would be at once, and vectors are made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def test_a_set_scored_in_parts_has_the_scores_of_one_search(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import whole_sets

    from llama2vec.data.beir import read_beir

    made: list[int] = []

    def embed(texts: list[str], _: bool) -> np.ndarray:
        """Each letter is a dimension."""
        made.append(len(texts))
        rows = np.array([[text.count(letter) + 0.01 for letter in "aeiourstln"] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    systems = {name: whole_sets.System(embed, tmp_path / name) for name in (whole_sets.OURS, whole_sets.PEER)}
    task = read_beir(toy_data / "one")
    once = whole_sets.score_set("one", task, systems)
    encoded = sum(made)
    monkeypatch.setattr(whole_sets, "_QUERIES_AT_ONCE", 3)
    parts = whole_sets.score_set("one", task, systems)
    assert parts == once
    assert sum(made) == encoded, "the second call must read the vectors that are kept"
    scores, per_query = once
    assert scores["queries"] == 10
    assert scores["rows"][whole_sets.OURS] == scores["rows"][whole_sets.PEER]
    found = whole_sets._comparison("one", per_query)
    pair = next(one for one in found.pairs if {one.first, one.second} == {whole_sets.OURS, whole_sets.PEER})
    assert (pair.difference, pair.randomization_p) == (0, 1)

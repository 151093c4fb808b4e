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


def test_the_tables_name_what_was_averaged_and_leave_out_what_is_missing() -> None:
    import whole_sets_tables as tables

    def row(score: float) -> dict[str, object]:
        return {tables.MEASURE: score, "interval": [score - 0.1, score + 0.1]}

    results = {
        "sets": {"cranfield": {"rows": {name: row(0.5) for name in tables.ROWS}}},
        "sts": {"en-test": {tables.OURS: {"spearman": 0.8, "interval": [0.7, 0.9]}}},
        "averaged": ["cranfield"],
        "average": dict.fromkeys(tables.ROWS, 0.5),
        "comparisons": [{"first": "a", "second": "b", "difference": 0.02, "interval": [-0.01, 0.05], "p": 0.2}],
    }
    head, _, ours, words, *_ = tables.scores(results).split("\n")
    assert head == "|  | cranfield | average of 1 | STS-B dev | STS-B test |"
    assert ours == "| vectors | 0.500 [0.400, 0.600] | **0.500** | – | 0.800 [0.700, 0.900] |"
    assert words.endswith("| – | – |")
    assert "| a | b | +0.020 [-0.010, +0.050] | 0.2000 |" in tables.tests(results)

"""Training pairs are kept apart from test collections, and what is dropped is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

HELD = "the boundary layer of a slender wing separates from its leading edge at a high angle of attack"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Every test collection holds one passage and one query; STS-B one pair a split."""
    from training_pairs import SETS

    root = tmp_path / "data"
    for name in (*SETS, "medquad"):
        folder = root / name
        (folder / "qrels").mkdir(parents=True)
        text = HELD if name == "cranfield" else f"{name} has a passage of its own words"
        (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": text}) + "\n")
        (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": f"What does {name} ask?"}) + "\n")
        for split in ("dev", "test"):
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (root / "stsb").mkdir()
    for split in ("dev", "test"):
        pair = f"A man plays a {split}.\tSomebody plays.\t4.0\n"
        (root / "stsb" / f"en-{split}.tsv").write_text(f"sentence1\tsentence2\tscore\n{pair}")
    return root


def test_pairs_of_test_collections_are_dropped_and_counted(data: Path) -> None:
    from training_pairs import Tests, clean

    good = {"query": "why do wings stall", "pos": ["air leaves the surface of the wing"], "neg": []}
    rows = [
        good,
        good,
        {"query": "a wing", "pos": [f"As reported, {HELD}, and so on."], "neg": []},
        {"query": "What does cacm ask?", "pos": ["a passage that no test holds"], "neg": []},
        {"query": "music", "pos": ["A man plays a test"], "neg": []},
        {"query": "the same words", "pos": ["The same words."], "neg": []},
        {"query": "lift", "pos": ["lift holds an aircraft up"], "neg": [HELD, "drag slows it down", "lift"]},
    ]
    dropped: Counter[str] = Counter()
    kept = list(clean(rows, Tests(data), dropped, 4))
    assert [row["query"] for row in kept] == ["why do wings stall", "lift"]
    assert kept[1]["neg"] == ["drag slows it down"]
    assert dropped == {
        "duplicate": 1,
        "in a test collection": 3,
        "too short, or the query itself": 1,
        "negatives in a test collection": 1,
    }

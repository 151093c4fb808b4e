"""The nearest of many vectors, block by block."""

from __future__ import annotations

import numpy as np
import pytest

from llama2vec.retrieve import nearest as nearest_module
from llama2vec.retrieve.nearest import Nearest, best_rows


@pytest.fixture(params=["faiss", "numpy", "both"])
def merging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge with FAISS from the first block on, with NumPy alone, or with one after the other."""
    monkeypatch.setattr(nearest_module, "_BLOCK_ROWS", 20)
    if request.param == "numpy":
        monkeypatch.setattr(nearest_module, "faiss", None)
    elif request.param == "faiss":
        monkeypatch.setattr(nearest_module, "_HEAPS_FROM", 0)


@pytest.mark.usefixtures("merging")
@pytest.mark.parametrize("order", [1, -1], ids=["each block better than all before", "each block worse"])
def test_blocks_in_the_worst_order_leave_the_best(order: int) -> None:
    table = np.linspace(-1, 1, 1000, dtype=np.float32)[::order, None]
    found = Nearest(np.float32([[1], [-1]]), depth=7)
    for begin in range(0, len(table), 50):
        found.add(table[begin : begin + 50], begin)
    scores, rows = found.best()
    assert rows[0].tolist() == np.argsort(-table[:, 0], kind="stable")[:7].tolist()
    assert rows[1].tolist() == np.argsort(table[:, 0], kind="stable")[:7].tolist()
    np.testing.assert_array_equal(scores[0], table[rows[0], 0])


@pytest.mark.usefixtures("merging")
def test_vectors_that_are_not_numbers_are_never_found() -> None:
    table = np.float32([[np.nan], [0.5], [np.nan], [-np.inf], [0.25]])
    found = Nearest(np.float32([[1]]), depth=3)
    found.add(table, 0)
    assert found.best()[1].tolist() == [[1, 4, -1]]


@pytest.mark.usefixtures("merging")
def test_equal_scores_keep_the_lower_rows() -> None:
    found = Nearest(np.float32([[1]]), depth=3)
    found.add(np.ones((100, 1), np.float32), 0)
    found.add(np.ones((100, 1), np.float32), 100)
    assert found.best()[1].tolist() == [[0, 1, 2]]
    assert best_rows(np.ones(10, np.float32), 3).tolist() == [0, 1, 2]


@pytest.mark.usefixtures("merging")
def test_fewer_vectors_than_wanted_leave_the_rest_empty() -> None:
    found = Nearest(np.float32([[1], [-1]]), depth=4)
    found.add(np.float32([[2], [3]]), 0)
    scores, rows = found.best()
    assert rows.tolist() == [[1, 0, -1, -1], [0, 1, -1, -1]]
    assert scores.tolist() == [[3, 2, -np.inf, -np.inf], [-2, -3, -np.inf, -np.inf]]

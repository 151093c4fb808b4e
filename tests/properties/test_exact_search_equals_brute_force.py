"""Exact search through shards and blocks finds what one matrix product and one sort find."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.records import Passage
from llama2vec.retrieve import nearest as nearest_module
from llama2vec.retrieve.index import ExactIndex
from llama2vec.retrieve.store_writer import write_store


class TableEncoder:
    contract_hash = "c0ffee"

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        self.table = table
        self.dimension = table.shape[1]

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self.table[[int(passage.id) for passage in passages]]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    passages=st.integers(1, 40),
    width=st.integers(1, 5),
    queries=st.integers(1, 6),
    depth=st.integers(1, 50),
    shard_size=st.integers(1, 45),
    block_floats=st.integers(1, 60),
)
def test_exact_search_equals_brute_force_ties_included(
    seed: int, passages: int, width: int, queries: int, depth: int, shard_size: int, block_floats: int
) -> None:
    # Small whole numbers: every product is exact in float32 and many scores are equal.
    random = np.random.default_rng(seed)
    table = random.integers(-2, 3, size=(passages, width)).astype(np.float32)
    asked = random.integers(-2, 3, size=(queries, width)).astype(np.float32)
    scores = asked @ table.T
    order = np.lexsort((np.broadcast_to(np.arange(passages), scores.shape), -scores), axis=1)[:, :depth]
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(nearest_module, "_BLOCK_FLOATS", block_floats),
        mock.patch("os.fsync"),
    ):
        store = write_store(
            lambda: (Passage(str(n), "") for n in range(passages)),
            TableEncoder(table),
            Path(folder) / "store",
            source={},
            shard_size=shard_size,
        )
        found_scores, found_rows = ExactIndex(store).search(asked, depth)
    kept = min(depth, passages)
    np.testing.assert_array_equal(found_rows[:, :kept], order)
    np.testing.assert_array_equal(found_scores[:, :kept], np.take_along_axis(scores, order, axis=1))
    assert (found_rows[:, kept:] == -1).all()
    assert (found_scores[:, kept:] == -np.inf).all()

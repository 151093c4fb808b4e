"""Exact search through shards and blocks finds what one matrix product and one sort find."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_stores import TableEncoder

from llama2vec.records import Passage
from llama2vec.retrieve.index import exact as exact_module
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.store.writer import write_store


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    passages=st.integers(1, 40),
    width=st.integers(1, 5),
    queries=st.integers(1, 6),
    depth=st.integers(1, 50),
    shard_size=st.integers(1, 45),
    block_rows=st.integers(1, 20),
    block_queries=st.integers(1, 4),
    room=st.integers(1, 3),
    sampled=st.booleans(),
)
def test_exact_search_equals_brute_force_ties_included(
    seed: int,
    passages: int,
    width: int,
    queries: int,
    depth: int,
    shard_size: int,
    block_rows: int,
    block_queries: int,
    room: int,
    sampled: bool,
) -> None:
    # Small whole numbers: every product is exact in float32 and many scores are equal.
    random = np.random.default_rng(seed)
    table = random.integers(-2, 3, size=(passages, width)).astype(np.float32)
    asked = random.integers(-2, 3, size=(queries, width)).astype(np.float32)
    scores = asked @ table.T
    order = np.lexsort((np.broadcast_to(np.arange(passages), scores.shape), -scores), axis=1)[:, :depth]
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(exact_module, "_BLOCK_QUERIES", block_queries),
        mock.patch.object(exact_module, "_BLOCK_ROWS", block_rows),
        mock.patch.object(exact_module, "_ROOM", room),
        mock.patch.object(exact_module, "_IN_SAMPLE", 1 if sampled else 10**9),
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
    np.testing.assert_array_equal(found_rows, order)
    np.testing.assert_array_equal(found_scores, np.take_along_axis(scores, order, axis=1))

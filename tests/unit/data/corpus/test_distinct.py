"""Ids are told apart as by a set, in far less memory."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from llama2vec.data.corpus.distinct import DistinctIds


def test_a_table_that_grows_agrees_with_a_set() -> None:
    draw, seen, expected = random.Random(0), DistinctIds(), set[str]()
    for _ in range(40_000):
        one = f"d{draw.randrange(25_000)}"
        assert seen.add(one) == (one not in expected)
        expected.add(one)
    assert all((f"d{number}" in seen) == (f"d{number}" in expected) for number in range(26_000))
    assert len(seen) == len(expected)


def test_a_hundred_thousand_ids_take_less_than_thirty_bytes_each() -> None:
    tracemalloc.start()
    seen, before = DistinctIds(), tracemalloc.get_traced_memory()[0]
    for number in range(100_000):
        seen.add(str(number))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 30 * 100_000


def test_an_id_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        DistinctIds().add("\ud800")

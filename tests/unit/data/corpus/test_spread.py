"""A limit takes rows from all over a source."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llama2vec.data.corpus.spread import is_spread, spread, spread_mark


@pytest.mark.parametrize("total", [1, 2, 7, 10, 97, 1000])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 10, 96, 999, 5000])
def test_rows_by_themselves_are_those_of_is_spread(most: int, total: int) -> None:
    rows = range(total)
    assert [*spread(rows, most, total)] == [row for row in rows if is_spread(row, most, total)]


@pytest.mark.parametrize("most", [1, 5, 16, 17, 100, 399])
@pytest.mark.parametrize("length", [1, 3, 16, 50, 400])
def test_rows_that_belong_together_are_taken_in_runs_and_the_limit_is_reached(most: int, length: int) -> None:
    found = [*spread(range(400), most, 400, lambda one, two: one // length == two // length)]
    assert len(found) == most
    assert found == sorted(set(found))
    # The last one comes from the end of the source, but for the runs that came before their turn.
    assert found[-1] >= (most - 16) * 400 // most - 1
    if most >= 100 and length >= 3:
        begins = [row for row in found if row - 1 not in found]
        assert len(begins) <= most / 2


def test_nothing_is_read_after_the_last_row() -> None:
    def rows() -> Iterator[int]:
        yield from range(6)
        pytest.fail("reads on")

    assert [*spread(rows(), 2, 10)] == [0, 5]


def test_a_mark_stands_where_a_limit_takes_other_rows_than_in_earlier_versions() -> None:
    assert spread_mark(3, ["hf:name", "rows.jsonl"])
    for limit, sources in ((0, ["rows.jsonl"]), (3, ["hf:name", "ir:name"]), (3, [""])):
        assert spread_mark(limit, sources) == {}

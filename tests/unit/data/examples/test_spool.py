"""Rows on the disk are read by number, by any process, and drawn in a random order that holds a buffer."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama2vec.data.examples.spool import LinkedRows, Sizes, Spool, SpooledRow, buffers, write_spool
from llama2vec.errors import CorpusFormatError


def rows(count: int) -> Iterator[SpooledRow]:
    for number in range(count):
        texts = [f"text {number}\n\0é", "", "👍"]
        yield SpooledRow(texts, [number], size=number % 7, query_keys=[number % 3], answer_keys=[number, 100])


@pytest.fixture
def spool(tmp_path: Path) -> Spool[str]:
    write_spool(tmp_path / "rows.sqlite", rows(10))
    return Spool(tmp_path / "rows.sqlite", text)


def text(texts: list[str], rest: list[int]) -> str:
    assert texts[1:] == ["", "👍"]
    assert texts[0].startswith(f"text {rest[0]}\n")
    return texts[0]


def first_row(path: Path) -> str:
    return str(Spool(path, text)[0])


def test_rows_come_back_by_number_in_order_and_in_slices(spool: Spool[str]) -> None:
    texts = [f"text {number}\n\0é" for number in range(10)]
    assert list(spool) == texts
    assert len(spool) == 10
    assert (spool[3], spool[-1], spool[::4]) == (texts[3], texts[-1], texts[::4])
    with pytest.raises(IndexError):
        spool[10]
    assert spool.sizes(5, 9) == [5, 6, 0, 1]
    assert list(Sizes(spool)) == [number % 7 for number in range(10)]
    assert spool.keys(2, 5) == [(2, 2, 100), (0, 3, 100), (1, 4, 100)]


def test_answers_of_all_rows_with_one_query_are_found_together(spool: Spool[str]) -> None:
    assert sorted(spool.answers(1)) == [1, 4, 7, 100]
    assert spool.answers(99) == ()


def test_rows_are_taken_out_in_groups_and_the_last_ones_take_their_numbers(tmp_path: Path) -> None:
    groups = dict[int, list[int]]()

    def chosen(linked: LinkedRows) -> list[int]:
        groups.update({row: linked.group(row, 4) for row in range(len(linked))})
        return groups[1]

    made = (SpooledRow([f"{row}"], row, row, [row % 4], [100 + row // 8]) for row in range(10))
    # Rows 8 and 9 share an answer, thus link those of queries 0 and 1; 100 joins the others.
    made = (row._replace(answer_keys=()) if row.size < 8 else row for row in made)
    taken = write_spool(tmp_path / "rows.sqlite", made, chosen)
    assert (groups[0], groups[2]) == ([], [2, 6])  # Those of queries 0 and 1 together are over 4
    assert taken == []
    rest = write_spool(
        tmp_path / "rows.sqlite", (SpooledRow([f"{row}"], row, row, [row % 4]) for row in range(10)), chosen
    )
    assert rest == [SpooledRow([f"{row}"], row, row) for row in (1, 5, 9)]
    spool: Spool[int] = Spool(tmp_path / "rows.sqlite", lambda texts, rest: rest)
    assert list(spool) == [0, 7, 2, 3, 4, 8, 6]
    assert list(Sizes(spool)) == list(spool)
    assert spool.keys(0, 3) == [(0,), (3,), (2,)]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.sqlite"]


def test_another_process_opens_the_file_itself(spool: Spool[str]) -> None:
    assert spool[0] == "text 0\n\0é"
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        assert pool.apply(first_row, (spool.path,)) == "text 0\n\0é"
    assert spool.__getstate__()["_opened"] is None


def test_a_fault_in_the_source_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[SpooledRow]:
        yield from rows(3)
        raise CorpusFormatError("corpus.jsonl:4 is not JSON; write one object per line")

    with pytest.raises(CorpusFormatError):
        write_spool(tmp_path / "rows.sqlite", broken())
    assert list(tmp_path.iterdir()) == []


def test_a_buffer_holds_chunks_from_random_places_and_every_row_comes_once() -> None:
    found = [list(chunks) for chunks in buffers(300_000, random.Random(0))]
    assert max(sum(map(len, chunks)) for chunks in found) == 16 * 4096
    assert sorted(row for chunks in found for chunk in chunks for row in chunk) == list(range(300_000))
    starts = [chunk.start for chunk in found[0]]
    assert starts != sorted(starts)
    assert found == [list(chunks) for chunks in buffers(300_000, random.Random(0))]

"""Tables at any width: whole words, numbers and intervals, names that stay apart, full rows without a terminal."""

from __future__ import annotations

import re

import pytest

from llama2vec.tables import Cell, Table, shortened
from llama2vec.terminal import width_of

NAMES = ["runs/harbour/adapted-for-one-epoch", "runs/harbour/adapted-for-two-epochs", "bm25"]
SCORES = Table(
    [
        ["System", "nDCG@10", "R@100"],
        *(
            [name, Cell(f"0.{place}60", f"[0.{place}15, 0.{place}81]"), Cell("1.000")]
            for place, name in enumerate(NAMES)
        ),
    ],
    "cranes/test",
    "Higher is better. [95 % bootstrap interval]",
)
STAGES = Table(
    [
        ["Stage", "time", "action", "reads"],
        ["adapt", "~ 12:30", "run", "corpora/harbour/manuals.jsonl, model"],
        ["finetune", "–", "skip", "pairs"],
    ],
    texts=["action", "reads"],
)


def test_columns_are_aligned_where_they_fit() -> None:
    assert SCORES.lines(80) == [
        "cranes/test",
        "System                               nDCG@10                 R@100",
        "─" * 66,
        "runs/harbour/adapted-for-one-epoch     0.060 [0.015, 0.081]  1.000",
        "runs/harbour/adapted-for-two-epochs    0.160 [0.115, 0.181]  1.000",
        "bm25                                   0.260 [0.215, 0.281]  1.000",
        "Higher is better. [95 % bootstrap interval]",
    ]


def test_intervals_go_below_their_values_before_names_are_shortened() -> None:
    assert SCORES.lines(60)[1:6] == [
        "System                                      nDCG@10  R@100",
        "─" * 58,
        "runs/harbour/adapted-for-one-epoch            0.060  1.000",
        "                                     [0.015, 0.081]",
        "runs/harbour/adapted-for-two-epochs           0.160  1.000",
    ]


def test_names_are_shortened_in_the_middle_and_stay_apart() -> None:
    assert SCORES.lines(48)[3:9:2] == [
        "runs/harbour/…r-one-epoch           0.060  1.000",
        "runs/harbour/…-two-epochs           0.160  1.000",
        "bm25                                0.260  1.000",
    ]


def test_a_row_becomes_a_block_where_no_columns_fit() -> None:
    lines = SCORES.lines(32)
    assert lines[:5] == [
        "cranes/test",
        "runs/harbour/ada…d-for-one-epoch",
        "  nDCG@10  0.060 [0.015, 0.081]",
        "  R@100    1.000",
        "",
    ]
    assert lines[8:] == [
        "",
        "bm25",
        "  nDCG@10  0.260 [0.215, 0.281]",
        "  R@100    1.000",
        "",
        "Higher is better. [95 %",
        "  bootstrap interval]",
    ]
    assert SCORES.lines(24)[2:4] == ["  nDCG@10  0.060", "  [0.015, 0.081]"]


def test_texts_go_below_their_row_the_last_ones_first() -> None:
    assert STAGES.lines(70)[2] == "adapt     ~ 12:30  run     corpora/harbour/manuals.jsonl, model"
    assert STAGES.lines(60)[2:] == [
        "adapt     ~ 12:30  run",
        "  reads  corpora/harbour/manuals.jsonl, model",
        "finetune        –  skip",
        "  reads  pairs",
    ]


def test_a_path_in_a_cell_is_broken_after_a_slash_alone() -> None:
    assert STAGES.lines(36)[3:5] == ["  reads  corpora/harbour/", "         manuals.jsonl, model"]


def test_without_a_terminal_each_row_is_one_full_line() -> None:
    for table in (SCORES, STAGES):
        lines = table.lines(None)
        assert len(lines) == len(table.rows) + bool(table.title) + bool(table.note)
        for row in table.rows:
            texts = [one if isinstance(one, str) else f"{one.text} {one.interval}".rstrip() for one in row]
            assert any(all(text in line for text in texts) for line in lines)


@pytest.mark.parametrize("width", range(24, 121))
def test_no_width_breaks_a_word_or_is_exceeded(width: int) -> None:
    for table in (SCORES, STAGES):
        lines = table.lines(width)
        assert max(map(width_of, lines)) <= width, lines
        whole = {word for line in table.lines(None) for word in line.split()}
        words = {word for line in lines for word in line.split() if "…" not in word and "─" not in word}
        assert {word for word in words - whole if not re.search(r"/$|^(manuals|harbour)", word)} == set()
        assert len(re.findall(r"\[0\.\d15, 0\.\d81\]", "\n".join(lines))) in (0, 3)


def test_wide_characters_count_twice() -> None:
    lines = Table([["名", "AP"], ["起重机", "0.5"], ["x", "0.25"]]).lines(40)
    assert lines == ["名        AP", "─" * 12, "起重机   0.5", "x       0.25"]
    assert shortened(["起重机起重机"], 8) == ["起重…机"]


def test_names_that_differ_nowhere_else_are_left_whole() -> None:
    assert shortened(["a" * 30 + "x" + "b" * 30, "a" * 30 + "y" + "b" * 30], 12) is None
    assert shortened(["short", "longer-than-that"], 9) == ["short", "longe…hat"]


def test_a_cell_with_control_characters_stays_on_its_line() -> None:
    assert Table([["a", "b"], ["x\ny\x1b[2J", "1"]]).lines(None)[1].startswith("x\\ny\\x1b[2J")

"""Which texts become numbers or truth values, alone and in a column."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llama2vec.data.documents.readers.values import Column, shown, typed
from llama2vec.records import Value


def column(*cells: Value) -> list[Value]:
    made = Column()
    for cell in cells:
        made.add(cell)
    return [made.value(cell) for cell in cells]


@pytest.mark.parametrize(
    "cells",
    [
        ("1234e56",), ("12E5", "13E7"), ("1.10", "1.9", "2"), ("1.10", "12"), ("+49", "+43"), ("007",), ("12", "n/a"),
        ("1e999",), ("1.5e-999",), ("-0",), ("1,5",), (".5",), ("٣",), ("1234567890123456",), ("0.12345678901234567",),
        ("yes", "no"), ("TRUE", "1"), ("1.50", "1.5e-5"), ("true", "maybe"),
    ],
)  # fmt: skip
def test_a_column_stays_text_where_one_cell_would_be_written_otherwise(cells: Sequence[str]) -> None:
    assert column(*cells) == list(cells)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (("12", "-3", "0"), [12, -3, 0]),
        (("12.50", "3.00", "-0.99"), [12.5, 3.0, -0.99]),
        (("1.5", "2", "0.25"), [1.5, 2, 0.25]),
        (("1.0E10", "2.5E-3"), [1e10, 2.5e-3]),
        (("0.05", "1e-07", "1"), [0.05, 1e-07, 1]),
        (("0e+00", "1E+05"), [0.0, 1e5]),
        (("TRUE", "False", "true"), [True, False, True]),
        ((2021.0, "7"), [2021, 7]),
        ((0.1, 1e-9, 3), [0.1, 1e-9, 3]),
        ((5, "A12", True, "6"), [5, "A12", True, "6"]),
    ],
)
def test_a_column_of_numbers_or_truth_values_holds_them(cells: Sequence[Value], values: list[Value]) -> None:
    found = column(*cells)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


def test_a_text_alone_is_a_number_only_as_numbers_are_written() -> None:
    assert [typed(text) for text in ("1.10", "12.0", "1.50", "true", "NO")] == ["1.10", 12.0, "1.50", True, "NO"]
    assert [shown(cell) for cell in (1e20, 0.5, False, 7)] == ["1e+20", "0.5", "FALSE", "7"]

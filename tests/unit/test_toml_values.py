"""Values of TOML, read and written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from llama2vec.toml_values import set_value, toml_value

NESTED = "[" * 5000


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 0.001), ("true", True), ('["a", "b"]', ["a", "b"]), ("a model", "a model"), (NESTED, NESTED)],
    ids=["integer", "number", "truth", "list", "text", "too nested"],
)
def test_what_is_not_toml_is_text(text: str, value: Any) -> None:
    assert set_value(text) == value


@pytest.mark.parametrize("value", [3, -0.5, True, "", 'a "b"\\', "über\x7f\n\t", ["a", [1, 2]], {"a b": {"c": 1}}])
def test_a_written_value_is_read_as_it_was(value: Any) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value

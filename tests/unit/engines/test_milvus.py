"""What Milvus cannot hold; `make stacks` runs the rest on Milvus Lite."""

from __future__ import annotations

from llama2vec.engines.milvus import Milvus
from llama2vec.records import Passage


def test_a_text_that_is_too_long_is_named_with_its_bytes() -> None:
    why_not = object.__new__(Milvus).why_not
    assert why_not(Passage("1", "x" * 65_535), 1) is None
    assert why_not(Passage("1", "世" * 21_846), 1) == "its text has 65,538 bytes, and Milvus takes 65,535"
    assert why_not(Passage("1" * 70_000, "x"), 1) == "its id has 70,000 bytes, and Milvus takes 65,535"
    assert "its fields have" in str(why_not(Passage("1", "x", fields={"a": "x" * 70_000}), 1))

"""The SQL for vectors of any width; `make stacks` runs it on a real PostgreSQL."""

from __future__ import annotations

import pytest

from llama2vec.engines.pgvector import _index_name, _indexed, nearest_sql, quoted


@pytest.mark.parametrize(
    ("dimension", "index", "order"),
    [
        (2000, "vector vector_ip_ops", "vector <#> %(query)s LIMIT %(limit)s"),
        (2001, "(vector::halfvec(2001)) halfvec_ip_ops", "vector::halfvec(2001) <#> %(query)s::vector::halfvec(2001)"),
        (4096, "(binary_quantize(vector)::bit(4096)) bit_hamming_ops", "binary_quantize(vector)::bit(4096) <~>"),
    ],
)
def test_wide_vectors_are_indexed_in_fewer_bits_and_ranked_in_all(dimension: int, index: str, order: str) -> None:
    assert _indexed(dimension) == index
    assert f"ORDER BY {order}" in nearest_sql("t", dimension)
    assert nearest_sql("t", dimension).endswith("ORDER BY vector <#> %(query)s LIMIT %(limit)s")


def test_names_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'


def test_tables_that_begin_alike_have_indexes_of_their_own() -> None:
    names = {_index_name(quoted("a" * 50 + end)) for end in ("b", "c")}
    assert len(names) == 2
    assert max(map(len, names)) <= 63 + 2

"""Qdrant's point ids; `make stacks` runs the rest on its local mode."""

from __future__ import annotations

import uuid

from llama2vec.engines.qdrant import _point_id


def test_every_passage_has_one_point_id_always_and_everywhere() -> None:
    assert _point_id("guide/a.md#1") == "9b733703-4925-58e3-a020-c33a4e9d8e37"
    assert len({_point_id(str(n)) for n in range(1000)}) == 1000
    assert uuid.UUID(_point_id("世界")).version == 5

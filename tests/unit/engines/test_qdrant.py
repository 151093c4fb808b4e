"""Qdrant's point ids; `make stacks` runs the rest on its local mode."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from llama2vec.engines.engine import ABOUT, About, Entry
from llama2vec.engines.qdrant import Qdrant, _point_id
from llama2vec.errors import EngineError
from llama2vec.records import Passage


def test_every_passage_has_one_point_id_always_and_everywhere() -> None:
    assert _point_id("guide/a.md#1") == "9b733703-4925-58e3-a020-c33a4e9d8e37"
    assert len({_point_id(str(n)) for n in range(1000)}) == 1000
    assert uuid.UUID(_point_id("世界")).version == 5


class Client:
    """What notes how long each request may take."""

    asked: list[tuple[str, float]]

    def __init__(self, *, timeout: float, **where: Any) -> None:
        self.timeout = timeout

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **options: Any) -> Any:
            self.asked.append((name, self.timeout))
            about = About(contract_hash="c0ffee", dimension=2).model_dump()
            return SimpleNamespace(config=SimpleNamespace(metadata={ABOUT: about}), count=3)

        return ask


def test_what_the_collection_says_of_itself_must_come_within_the_time_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Client.asked = []
    names = ("qdrant_client", "qdrant_client.http", "qdrant_client.http.exceptions")
    package, _, errors = (ModuleType(name) for name in names)
    package.QdrantClient, package.models = Client, MagicMock()  # type: ignore[attr-defined]
    errors.ApiException = type("ApiException", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, names[0], package)
    monkeypatch.setitem(sys.modules, names[1], ModuleType(names[1]))
    monkeypatch.setitem(sys.modules, names[2], errors)
    engine = Qdrant("http://host:6333", "texts", token="", timeout=3)
    assert engine.about() is not None
    assert engine.count() == 3
    engine.close()
    limits = [("get_collections", 3), ("collection_exists", 3), ("get_collection", 3), ("count", 60)]
    assert Client.asked == [*limits, ("close", 60), ("close", 3)]


@pytest.mark.parametrize("payload", [None, {"id": 7, "digest": "0"}, {"name": "theirs"}])
def test_a_point_of_another_program_is_named_and_not_counted(tmp_path: Path, payload: Any) -> None:
    client = pytest.importorskip("qdrant_client")
    engine = Qdrant(str(tmp_path / "base"), "texts", token="", timeout=3)
    engine.create(About(contract_hash="c0ffee", dimension=2))
    vector = np.array([1, 0], np.float32)
    engine.upsert([Entry(Passage("a", "text"), vector, {}, "d1")])
    assert list(engine.digests()) == [[("a", "d1")]]
    assert engine.search(vector[None], 2) == [[("a", 1.0)]]
    point = client.models.PointStruct(id=3, vector={"vector": [1.0, 0.0]}, payload=payload)
    engine._client.upsert("texts", [point], wait=True)
    assert engine.count() == 1 + ("digest" in (payload or {}))
    said = r"holds an entry that `llama2vec export` did not write \(3\); remove it there, or choose another"
    with pytest.raises(EngineError, match=said):
        list(engine.digests())
    with pytest.raises(EngineError, match=said):
        engine.search(vector[None], 2)
    engine.close()

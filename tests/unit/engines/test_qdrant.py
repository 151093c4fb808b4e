"""Qdrant's point ids; `make stacks` runs the rest on its local mode."""

from __future__ import annotations

import sys
import uuid
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llama2vec.engines.engine import ABOUT, About
from llama2vec.engines.qdrant import Qdrant, _point_id


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
    package.QdrantClient, package.models = Client, None  # type: ignore[attr-defined]
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

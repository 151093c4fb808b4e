"""What Milvus cannot hold, and what its client is asked; `make stacks` runs the rest on Milvus Lite."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama2vec.engines.engine import ABOUT, About, Entry
from llama2vec.engines.milvus import Milvus
from llama2vec.records import Passage

HOSTILE_IDS = ["it's", "back\\slash", 'z" or id != "', "two\nlines", "a'] or id not in ['", "世界"]


class Schema:
    """The fields of a collection."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.key = ""

    def add_field(self, name: str, kind: Any, *, is_primary: bool = False, **options: Any) -> None:
        self.names.append(name)
        self.key = name if is_primary else self.key


class Client:
    """A Milvus whose client, as pymilvus 3.0 does, writes primary keys into expressions as they are."""

    def __init__(self) -> None:
        self.schema, self.rows = Schema(), dict[str, dict[str, Any]]()
        self.about = ""

    def list_collections(self, **options: Any) -> list[str]:
        return []

    def has_collection(self, name: str, **options: Any) -> bool:
        return bool(self.schema.names)

    def describe_collection(self, name: str, **options: Any) -> dict[str, Any]:
        return {"properties": {ABOUT: self.about}}

    def create_schema(self, **options: Any) -> Schema:
        return Schema()

    def prepare_index_params(self) -> SimpleNamespace:
        return SimpleNamespace(add_index=lambda *given, **options: None)

    def create_collection(self, name: str, *, schema: Schema, properties: dict[str, str], **options: Any) -> None:
        self.schema, self.about = schema, properties[ABOUT]

    def load_collection(self, name: str) -> None: ...

    def upsert(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        assert {frozenset(row) for row in rows} == {frozenset(self.schema.names)}
        self.rows |= {row[self.schema.key]: row for row in rows}

    def delete(self, name: str, *, ids: Sequence[str]) -> None:
        for key in self._checked(ids):
            self.rows.pop(key, None)

    def query_iterator(self, name: str, *, batch_size: int, output_fields: list[str]) -> SimpleNamespace:
        batches = [self._checked(list(self.rows)), []]
        rows = [[{field: self.rows[key][field] for field in output_fields} for key in one] for one in batches]
        return SimpleNamespace(next=lambda: rows.pop(0), close=lambda: None)

    @staticmethod
    def _checked(keys: Sequence[str]) -> Sequence[str]:
        """Refuse what would change the meaning of an expression."""
        for key in keys:
            assert re.fullmatch(r"[\w ]+", key, re.ASCII), f"Milvus would misread {key!r}"
        return keys


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made, package = Client(), ModuleType("pymilvus")
    package.MilvusException = type("MilvusException", (Exception,), {})  # type: ignore[attr-defined]
    package.DataType = SimpleNamespace(VARCHAR=1, INT64=2, JSON=3, FLOAT_VECTOR=4)  # type: ignore[attr-defined]
    package.MilvusClient = lambda at, **options: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pymilvus", package)
    return made


def opened() -> Milvus:
    return Milvus("http://host", "passages", token="", timeout=3)


def test_ids_are_never_part_of_an_expression(client: Client) -> None:
    engine = opened()
    engine.create(About(contract_hash="c0ffee", dimension=2))
    entries = [Entry(Passage(one, "text"), np.ones(2, np.float32), {}, "0" * 32) for one in HOSTILE_IDS]
    engine.upsert(entries)
    engine.upsert(entries)
    assert [one for batch in engine.digests() for one, _ in batch] == HOSTILE_IDS
    engine.delete(HOSTILE_IDS[:4])
    assert [one for batch in engine.digests() for one, _ in batch] == HOSTILE_IDS[4:]


def test_a_text_that_is_too_long_is_named_with_its_bytes() -> None:
    why_not = object.__new__(Milvus).why_not
    assert why_not(Passage("1", "x" * 65_535), 1) is None
    assert why_not(Passage("1", "世" * 21_846), 1) == "its text has 65,538 bytes, and Milvus takes 65,535"
    assert why_not(Passage("1" * 70_000, "x"), 1) == "its id has 70,000 bytes, and Milvus takes 65,535"
    assert "its fields have" in str(why_not(Passage("1", "x", fields={"a": "x" * 70_000}), 1))

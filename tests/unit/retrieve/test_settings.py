"""Settings of encoding and indexing."""

from __future__ import annotations

import pytest

from llama2vec.errors import SettingsError
from llama2vec.retrieve.settings import EncodeSettings, IndexSettings, LibrarySettings, StoredVectors


@pytest.mark.parametrize(
    ("schema", "values"),
    [(IndexSettings, {"kind": ""}), (IndexSettings, {"language": "english"}), (EncodeSettings, {"shard_size": 0})]
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(schema: type[IndexSettings], values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        schema.model_validate(values)


@pytest.mark.parametrize("schema", [EncodeSettings, LibrarySettings])
def test_vectors_are_stored_in_one_format_and_an_earlier_index_has_the_same_settings(
    schema: type[StoredVectors],
) -> None:
    formats = [schema.model_validate(given).vector_format for given in ({}, {"half": True}, {"int8": True})]
    assert formats == ["float32", "float16", "int8"]
    assert "int8" not in schema(half=True).model_dump()
    assert schema(int8=True).model_dump()["int8"] is True
    with pytest.raises(SettingsError, match="half and int8 are two formats of the vectors; choose one"):
        schema(half=True, int8=True)

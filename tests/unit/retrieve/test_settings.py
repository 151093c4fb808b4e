"""Settings of encoding and indexing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llama2vec.retrieve.settings import EncodeSettings, IndexSettings


def test_the_removed_key_sparse_loads_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert IndexSettings.model_validate({"bm25": True, "sparse": True}) == IndexSettings(bm25=True)
    assert caplog.messages == ["index.sparse: sparse search was removed, so the key has no effect; please delete it"]


@pytest.mark.parametrize(
    ("schema", "values"),
    [(IndexSettings, {"kind": ""}), (IndexSettings, {"language": "english"}), (EncodeSettings, {"shard_size": 0})]
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(schema: type[IndexSettings], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        schema.model_validate(values)

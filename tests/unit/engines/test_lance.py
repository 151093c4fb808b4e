"""Which languages LanceDB's own BM25 knows; `make stacks` runs the rest on a real database."""

from __future__ import annotations

from llama2vec.engines.lance import _LANGUAGES
from llama2vec.retrieve.index.lexical import _STEMMERS


def test_every_language_of_lancedb_is_one_that_we_stem() -> None:
    assert {code: name.lower() for code, name in _LANGUAGES.items()}.items() <= _STEMMERS.items()

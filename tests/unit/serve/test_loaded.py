"""What the service answers from, without the service."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from encoders import encoder_for
from service_stand_ins import StandInSearcher

from llama2vec.config import EncoderSettings
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.serve.loaded import Loaded, PreparedQuery, Search, ServedModel


def test_only_a_search_by_vectors_asks_the_model() -> None:
    query = PreparedQuery("c0ffee")
    loaded = Loaded(cast(ServedModel, object()), cast(Retriever, StandInSearcher(query)), query)
    assert [loaded.asks_model(Search("llama", mode, 1)) for mode in ("dense", "hybrid", "bm25")] == [True, True, False]
    assert not loaded.quick
    assert [hit.passage.id for hit in loaded.hits(Search("llama", "bm25", 1), None)] == ["camelids/1"]


def test_a_request_with_texts_that_are_cut_leaves_a_line_in_the_log(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EncoderSettings(query_max_tokens=8, passage_max_tokens=200)
    model = ServedModel(encoder_for(llama_folder, settings=settings), "tiny")
    counts = model.count_tokens(["river", "the river and the castle " * 20, "a"], "query")
    model.count_tokens(["the river and the castle " * 4], "passage")
    assert counts[1] > counts[0]
    assert caplog.messages == [
        "the model reads only the beginning of 1 of 3 queries (33.3 %), and the rest of each after 8 tokens is not in "
        "its vector; the model cannot read more, so shorten them"
    ]

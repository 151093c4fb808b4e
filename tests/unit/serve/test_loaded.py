"""What the service answers from, without the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from encoders import encoder_for
from service_stand_ins import StandInSearcher

from llama2vec.config import EncoderSettings
from llama2vec.model.lengths import Cut
from llama2vec.records import Query
from llama2vec.retrieve.search.query_table import QueryTable
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.serve.loaded import Loaded, PreparedQuery, Search, ServedModel


def test_only_a_search_by_vectors_asks_the_model() -> None:
    query = PreparedQuery("c0ffee")
    loaded = Loaded(cast(ServedModel, object()), cast(Retriever, StandInSearcher(query)), query)
    assert [loaded.asks_model(Search("llama", mode, 1)) for mode in ("dense", "hybrid", "bm25")] == [True, True, False]
    assert not loaded.quick
    assert [hit.passage.id for hit in loaded.hits(Search("llama", "bm25", 1), None)] == ["camelids/1"]


def test_texts_that_are_cut_leave_one_line_in_the_log_for_each_side(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EncoderSettings(query_max_tokens=8, passage_max_tokens=200)
    model = ServedModel(encoder_for(llama_folder, settings=settings), "tiny")
    lengths = model.count_tokens(["river", "the river and the castle " * 20, "a"], "query")
    assert model.count_tokens(["the river and the castle " * 4], "passage").cut == 0
    for _ in range(3):
        assert model.count_tokens(["the river and the castle " * 30], "query").cut == 1
    assert lengths.tokens[1] > lengths.tokens[0]
    assert lengths.cut == 1
    assert caplog.messages == [
        "the model reads only the beginning of 1 of 3 queries (33.3 %), and the rest of each after 8 tokens is not in "
        "its vector; the model cannot read more, so shorten them"
    ]
    assert [model.count_tokens(["the river and the castle " * 90] * 2, "passage").cut for _ in range(2)] == [2, 2]
    assert len(caplog.messages) == 2
    assert "the beginning of 2 of 2 passages" in caplog.messages[1]


class ShortTable:
    """A query table that reads three words."""

    def encode_queries(self, queries: Sequence[str], /) -> np.ndarray:
        return np.ones((len(queries), 8), np.float32)

    def cut_queries(self, queries: Sequence[Query]) -> Cut:
        return Cut(sum(len(query.text.split()) > 3 for query in queries), 3)


def test_questions_that_the_table_cuts_are_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    query = PreparedQuery("c0ffee")
    retriever, table = cast(Retriever, StandInSearcher(query)), cast(QueryTable, ShortTable())
    loaded = Loaded(cast(ServedModel, object()), retriever, query, table)
    long = "llama wool of the Andes"
    assert loaded.cut_by_table(Search("llama", "dense", 1, quick=True)) == 0
    assert [loaded.cut_by_table(Search(long, "dense", 1, quick=True)) for _ in range(3)] == [1, 1, 1]
    # The table encoded neither of these.
    assert loaded.cut_by_table(Search(long, "dense", 1)) == 0
    assert loaded.cut_by_table(Search(long, "bm25", 1, quick=True)) == 0
    assert len(caplog.messages) == 1
    assert "the model reads only the beginning of the query" in caplog.messages[0]

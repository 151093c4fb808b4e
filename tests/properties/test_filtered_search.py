"""A filtered search finds what a search over the allowed passages alone finds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
from counting_encoder import WORDS
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.records import Passage, Place, Query
from llama2vec.retrieve.index import exact as exact_module
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import Fusion
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.settings import IndexKind
from llama2vec.retrieve.store.writer import write_store


class WholeNumbers:
    """Vectors of small whole numbers: every product is exact in float32, whatever is multiplied with it at once."""

    dimension, contract_hash = len(WORDS), "c0ffee"

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self._vectors([passage.text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])


TEXTS = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.tuples(TEXTS, st.none() | st.integers(0, 4), st.booleans()), min_size=1, max_size=30),
    queries=st.lists(TEXTS, min_size=1, max_size=3),
    depth=st.integers(1, 12),
    year=st.integers(-1, 5),
    shard_size=st.integers(1, 40),
    kind=st.sampled_from(["exact", "faiss-flat"]),
    few_rows=st.sampled_from([0, 20_000]),
    on_disk=st.booleans(),
)
def test_filtered_search_equals_search_over_the_allowed_passages(
    rows: list[tuple[str, int | None, bool]],
    queries: list[str],
    depth: int,
    year: int,
    shard_size: int,
    kind: IndexKind,
    few_rows: int,
    on_disk: bool,
) -> None:
    passages = [
        Passage(
            f"p{number}", text, place=Place("a.md" if is_first else "b.md", 0, 1),
            fields={} if value is None else {"year": value},
        )
        for number, (text, value, is_first) in enumerate(rows)
    ]  # fmt: skip
    where = f"year >= {year} or path ~ 'a.md'"
    allowed = [n for n, (_, value, is_first) in enumerate(rows) if is_first or (value is not None and value >= year)]
    asked = [Query(f"q{number}", text) for number, text in enumerate(queries)]
    encoder = WholeNumbers()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("os.fsync"),
        mock.patch.object(exact_module, "_FEW_ROWS", few_rows),
        mock.patch.object(exact_module, "_FEW_OF", 10**9),
    ):
        store = write_store(lambda: passages, encoder, Path(folder) / "s", source={}, shard_size=shard_size)
        index = Path(folder) / "i"
        build_index(store, index, kind=kind, bm25="en")
        assert (index / "fields.sqlite").is_file()
        opened = Retriever.open(index, encoder)
        whole = opened if on_disk else Retriever(opened.index, encoder, bm25=Bm25Index.build(passages))
        if "year" not in whole.fields.names:
            return
        found = {mode: whole.search(asked, mode, depth, where=where).results for mode in whole.modes}
        deep = {mode: whole.search(asked, mode, 1000, where=where) for mode in ("dense", "bm25")}

    vectors = encoder.encode_passages([passages[row] for row in allowed]).reshape(len(allowed), len(WORDS))
    bm25 = Bm25Index.build(passages)  # with the statistics of the whole corpus
    for query, vector in zip(asked, encoder.encode_queries(asked), strict=True):
        scores = vectors @ vector
        best = sorted(range(len(allowed)), key=lambda place: (-scores[place], place))
        assert list(deep["dense"].results[query.id].items()) == [(f"p{allowed[p]}", scores[p]) for p in best]
        first = found["dense"][query.id]
        assert list(first.values()) == [scores[place] for place in best[:depth]]
        # FAISS may take any of several passages with the last score.
        assert all(first[name] == scores[allowed.index(int(name[1:]))] for name in first)
        if kind == "exact":
            assert list(first) == [f"p{allowed[place]}" for place in best[:depth]]
        words = bm25.scores(query.text)
        shared = sorted((row for row in allowed if words[row] > 0), key=lambda row: (-words[row], row))
        assert list(deep["bm25"].results[query.id].items()) == [(f"p{row}", words[row]) for row in shared]
        assert list(found["bm25"][query.id].items()) == [(f"p{row}", words[row]) for row in shared[:depth]]
    assert found["hybrid"] == Fusion().fuse({"dense": deep["dense"], "bm25": deep["bm25"]}, depth).results

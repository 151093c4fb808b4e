"""Documents found by their windows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.data.windows import max_passage
from llama2vec.records import Query, Run
from llama2vec.retrieve.documents import search_documents, without_own


class Windows:
    """All windows' scores of every query, searched by brute force; remembers how it was asked."""

    def __init__(self, scores: dict[str, dict[str, float]]) -> None:
        self.scores = scores
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def search(self, queries: Sequence[Query], depth: int) -> Run:
        self.asked.append((tuple(query.id for query in queries), depth))
        # Equal scores come in an order of their own, as rows of an index do.
        best = {
            query.id: dict(sorted(self.scores[query.id].items(), key=lambda pair: -pair[1])[:depth])
            for query in queries
        }
        return Run(best, "ours")


def queries(*names: str) -> list[Query]:
    return [Query(name, name) for name in names]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcdefgq"), st.integers(0, 9)), st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=40
    ),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 5),
)
def test_the_best_documents_are_those_of_a_search_through_all_windows(
    cells: dict[tuple[str, int], float], depth: int, exclude: bool, seed: int
) -> None:
    items = [(f"{document}#{number}", score) for (document, number), score in cells.items()]
    random.Random(seed).shuffle(items)
    windows = Windows({"q": dict(items)})
    found = search_documents(windows.search, queries("q"), depth=depth, exclude_same_id=exclude)
    everything = [pair for pair in max_passage(Run(windows.scores)).ranking("q") if not (exclude and pair[0] == "q")]
    assert found.ranking("q") == everything[:depth]


def test_only_queries_that_lack_documents_are_asked_again_and_deeper() -> None:
    long = {f"long#{number}": 9.0 - number / 100 for number in range(30)}
    windows = Windows(
        {"hard": {**long, "a#0": 1.0, "b#0": 0.5}, "easy": {f"{name}#0": ord(name) for name in "abcdefgh"}, "none": {}}
    )
    found = search_documents(windows.search, queries("hard", "easy", "none"), depth=2)
    assert found.results == {"hard": {"long": 9.0, "a": 1.0}, "easy": {"h": 104, "g": 103}, "none": {}}
    assert (list(found.results), found.tag) == (["hard", "easy", "none"], "ours")
    assert windows.asked == [(("hard", "easy", "none"), 4), (("hard",), 8), (("hard",), 16), (("hard",), 32)]


def test_a_querys_own_passage_makes_room_for_the_next_one() -> None:
    run = Run({"q": {"q": 9.0, "a": 1.0, "b": 1.0}, "p": {"q": 2.0, "a": 1.0, "b": 0.5}}, "ours")
    assert without_own(run, 2) == Run({"q": {"a": 1.0, "b": 1.0}, "p": {"q": 2.0, "a": 1.0}}, "ours")

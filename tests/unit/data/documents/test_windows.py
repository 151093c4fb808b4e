import math
import random
import tracemalloc
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from counted_search import CountedSearch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_spans import byte_spans, four_letter_spans

from llama2vec.data.documents.windows import WindowSettings, cut_documents, document_id, document_windows, max_passage
from llama2vec.data.text.cutting import TokenSpans
from llama2vec.data.text.words import word_spans
from llama2vec.errors import ConfigError, EvaluationError, RunFormatError
from llama2vec.records import Passage, Run

# Every character is another one, so that a window can only stand where it was cut.
LETTERS = [chr(0x4E00 + number) for number in range(60)]
TEXTS = st.lists(st.integers(0, 3), max_size=60).map(
    lambda gaps: "".join(letter + " " * max(0, gap - 1) for letter, gap in zip(LETTERS, gaps, strict=False))
)
SIZES = st.integers(2, 14).flatmap(lambda tokens: st.tuples(st.just(tokens), st.integers(1, tokens)))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(["", "T", "a longer title of words"]), SIZES, st.sampled_from(["words", "four", "bytes"]))
def test_windows_keep_to_the_limit_and_leave_no_text_out(
    text: str, title: str, sizes: tuple[int, int], tokens: str
) -> None:
    spans: TokenSpans = {"words": word_spans, "four": four_letter_spans, "bytes": byte_spans}[tokens]
    found = list(document_windows(Passage("d", text, title), WindowSettings("maxp", *sizes), spans))
    assert [window.id for window in found] == [f"d#{number}" for number in range(len(found))]
    starts = [text.index(window.text) for window in found]
    assert starts == sorted(set(starts))
    seen = {place for start, one in zip(starts, found, strict=True) for place in range(start, start + len(one.text))}
    assert all(place in seen or letter.isspace() for place, letter in enumerate(text))
    # A single character that is more tokens than a window has is left to the encoder.
    assert all(len(spans(window.full_text)) <= sizes[0] or len(window.text) == 1 for window in found)
    assert list(document_windows(Passage("d", text, title), WindowSettings("firstp", *sizes), spans)) == found[:1]


@pytest.mark.parametrize("metaspace", [False, True])
def test_the_encoder_reads_every_window_to_its_end_and_the_first_is_what_it_reads_of_the_document(
    make_tokenizer: Callable[..., Any], sentences: list[str], metaspace: bool
) -> None:
    tokenizer = make_tokenizer(metaspace=metaspace)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def spans(text: str) -> Any:
        return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    for title in ("", "The old harbour"):
        document = Passage("d", " ".join(sentences[:12]), title)
        found = list(document_windows(document, WindowSettings("maxp", 40, 20), spans))
        assert len(found) > 5
        whole = ids(document.full_text)
        first = ids(found[0].full_text)
        assert first == whole[: len(first)]
        for window in found[:-1]:
            # Full but for the next word, which would not have fitted.
            after = document.text[document.text.index(window.text) + len(window.text) :].split(maxsplit=1)[0]
            assert len(ids(window.full_text)) <= 40 < len(ids(f"{window.full_text} {after}"))


def test_windows_overlap_by_the_stride() -> None:
    text = " ".join(f"w{number}" for number in range(10))
    found = document_windows(Passage("d", text), WindowSettings("maxp", tokens=4, stride=3), word_spans)
    assert [window.text for window in found] == ["w0 w1 w2 w3", "w3 w4 w5 w6", "w6 w7 w8 w9"]


def test_windows_in_words_count_signs_where_no_spaces_stand() -> None:
    found = document_windows(Passage("d", "羊驼毛很暖和。"), WindowSettings("maxp", tokens=4, stride=3), word_spans)
    assert [window.text for window in found] == ["羊驼毛很", "很暖和。"]


def test_the_title_stands_in_front_of_every_window_and_takes_at_most_half_of_it() -> None:
    document = Passage("d", "a b c d e f", "one two three four five")
    found = list(document_windows(document, WindowSettings("maxp", tokens=4, stride=4), word_spans))
    assert [window.full_text for window in found] == ["one two a b", "one two c d", "one two e f"]


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_document_without_text_is_one_window(text: str) -> None:
    found = list(document_windows(Passage("d", text, "title"), WindowSettings("maxp", 4, 2), word_spans))
    assert [(window.id, window.full_text) for window in found] == [("d#0", "title")]


def test_a_document_of_many_megabytes_costs_the_memory_of_one_window() -> None:
    draw = random.Random(0)
    text = " ".join(f"word{draw.randrange(10_000):0100}" for _ in range(80_000))
    assert len(text) > 8_000_000
    longest = 0

    def spans(piece: str) -> list[tuple[int, int]]:
        nonlocal longest
        longest = max(longest, len(piece))
        return word_spans(piece)

    documents = (Passage(f"d{number}", text) for number in range(2))
    tracemalloc.start()
    try:
        count = sum(1 for _ in islice(cut_documents(documents, WindowSettings("maxp", 100, 100), spans), 1_200))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The second document was reached, and never more than about a window's 10,000 characters were copied or cut.
    assert count == 1_200
    assert peak < 200_000
    assert longest < 20_000


def test_text_without_a_single_space_is_cut_into_windows_too() -> None:
    text = "".join(LETTERS) * 500
    found = list(document_windows(Passage("d", text), WindowSettings("maxp", 40, 40), four_letter_spans))
    assert "".join(window.text for window in found) == text
    assert {len(window.text) for window in found[:-1]} == {160}


@pytest.mark.parametrize("name", ["d", "a#b", "a#1", "https://x.org/#top", "#"])
def test_a_windows_id_gives_back_its_document(name: str) -> None:
    window = next(document_windows(Passage(name, "text"), WindowSettings("maxp", 4, 2), word_spans))
    assert document_id(window.id) == name


@pytest.mark.parametrize("name", ["d", "d#", "#3", "d#x", "d#-1"])
def test_what_is_no_windows_id_is_refused(name: str) -> None:
    with pytest.raises(RunFormatError, match="is not the id of a window"):
        document_id(name)


def test_a_document_scores_as_its_best_window() -> None:
    run = Run({"q": {"a#0": 1.0, "b#1": 2.0, "a#12": 2.0, "b#0": -1.0}, "none": {}}, "ours")
    folded = max_passage(run)
    assert folded == Run({"q": {"a": 2.0, "b": 2.0}, "none": {}}, "ours")
    assert folded.ranking("q") == [("a", 2.0), ("b", 2.0)]


def test_a_score_that_is_not_a_number_is_refused_wherever_it_stands() -> None:
    for scores in ({"a#0": math.nan, "a#1": 1.0}, {"a#0": 1.0, "a#1": math.nan}):
        with pytest.raises(EvaluationError, match=r"'a#\d' of query 'q' has the score nan"):
            max_passage(Run({"q": scores}))


@pytest.mark.parametrize(
    ("kind", "tokens", "stride", "problem"),
    [
        ("maxp", 1, 1, "has no room for text"),
        ("maxp", 8, 9, "stride of 9 tokens does not fit windows of 8"),
        ("maxp", 8, 0, "stride of 0 tokens"),
        ("sump", 8, 4, "unknown window kind 'sump'"),
    ],
)
def test_settings_that_make_no_windows_are_refused(kind: Any, tokens: int, stride: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        WindowSettings(kind, tokens, stride)


def test_a_text_without_spaces_is_looked_at_once_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedSearch()
    monkeypatch.setattr("llama2vec.data.documents.windows.NON_SPACE", counted)
    text = "羊驼毛很暖和。" * 500
    assert len(list(document_windows(Passage("d", text), WindowSettings("maxp", 16, 16), word_spans))) > 150
    assert 150 < counted.characters < len(text)

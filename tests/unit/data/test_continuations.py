"""Ordered text becomes pairs of a passage and what follows it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from llama2vec.data.settings import TextSettings
from llama2vec.data.unlabeled import Document, adaptation_examples, cut_document, group_documents, sentences
from llama2vec.errors import EmptyCorpusError
from llama2vec.records import Passage

EVERY_TEXT = TextSettings(min_words=4, max_words=12, held_out=0.0)


def document(name: str, count: int) -> list[Passage]:
    return [
        Passage(
            f"{name}-{number:03d}", f"Here stands sentence {number} of {name}. A follower stands {number} of {name}."
        )
        for number in range(count)
    ]


def test_passages_that_count_up_are_one_document() -> None:
    found = list(group_documents([*document("a", 3), *document("b", 2)]))
    assert [(one.id, len(one.texts)) for one in found] == [("a", 3), ("b", 2)]


@pytest.mark.parametrize("separator", ["-", "_", "#", ":", "/"])
def test_the_usual_separators_in_front_of_the_number_are_known(separator: str) -> None:
    rows = [Passage(f"wiki 7{separator}{number}", "x") for number in (4, 5)]
    assert [one.texts for one in group_documents(rows)] == [("x", "x")]


def test_a_gap_a_repetition_and_a_step_back_start_a_new_document() -> None:
    rows = [Passage(f"a-{number}", str(number)) for number in (0, 1, 3, 4, 4, 3)]
    assert [one.texts for one in group_documents(rows)] == [("0", "1"), ("3", "4"), ("4",), ("3",)]


def test_passages_without_numbers_stand_alone() -> None:
    rows = [Passage("x", "1"), Passage("x", "2"), Passage("a-0", "3"), Passage("y", "4"), Passage("a-1", "5")]
    assert [one.texts for one in group_documents(rows)] == [("1",), ("2",), ("3",), ("4",), ("5",)]
    assert list(group_documents([])) == []


def test_sentences_end_where_a_paragraph_does_and_hold_single_spaces() -> None:
    text = "Dr. Smith went home.  He slept.\n\nA heading\n\nThe end"
    assert sentences(text) == ["Dr. Smith went home.", "He slept.", "A heading", "The end"]
    assert sentences("") == sentences(" \n ") == []


def test_no_word_is_lost_and_order_is_kept() -> None:
    whole = Document("a", tuple(row.text for row in document("a", 9)))
    pieces = cut_document(whole, EVERY_TEXT, seed=3)
    assert " ".join(pieces) == " ".join(whole.texts)
    assert len(pieces) > 1


def test_pieces_have_a_length_between_the_limits() -> None:
    whole = Document("a", tuple("One two three four five." for _ in range(60)))
    settings = TextSettings(min_words=8, max_words=30)
    sizes = [len(piece.split()) for piece in cut_document(whole, settings)]
    assert all(8 <= size <= 30 for size in sizes[:-1])
    assert 8 <= sizes[-1] < 30 + 8
    assert len(set(sizes)) > 2


def test_equal_limits_give_pieces_of_one_length() -> None:
    whole = Document("a", tuple("One two three four five." for _ in range(40)))
    assert {len(piece.split()) for piece in cut_document(whole, TextSettings(min_words=20, max_words=20))} == {20}


def test_a_long_sentence_stays_whole_and_a_short_rest_joins_its_neighbor() -> None:
    long = " ".join(["word"] * 40) + "."
    pieces = cut_document(Document("a", (long, "Short rest.")), EVERY_TEXT)
    assert pieces == [f"{long} Short rest."]
    assert cut_document(Document("a", ("Two words.",)), EVERY_TEXT) == ["Two words."]


def test_the_cut_depends_on_seed_and_document_alone() -> None:
    texts = tuple("One two three four five." for _ in range(50))
    settings = TextSettings(min_words=5, max_words=40)
    assert cut_document(Document("a", texts), settings, 1) == cut_document(Document("a", texts), settings, 1)
    assert cut_document(Document("a", texts), settings, 1) != cut_document(Document("a", texts), settings, 2)
    assert cut_document(Document("a", texts), settings, 1) != cut_document(Document("b", texts), settings, 1)


def test_each_pair_is_a_piece_and_the_one_behind_it() -> None:
    rows = document("a", 6)
    pieces = cut_document(next(group_documents(rows)), EVERY_TEXT, 0)
    examples, held_out = adaptation_examples(rows, EVERY_TEXT, 0)
    assert [(example.text, example.next_text) for example in examples] == list(pairwise(pieces))
    assert held_out == []


def test_pairs_never_reach_into_another_document() -> None:
    examples, _ = adaptation_examples([*document("a", 4), *document("b", 4)], EVERY_TEXT)
    assert not any("of a." in example.text and "of b." in example.next_text for example in examples)


def test_the_last_piece_serves_where_nothing_needs_to_follow() -> None:
    rows = document("a", 6)
    with_next, _ = adaptation_examples(rows, EVERY_TEXT, need_next=True)
    without, _ = adaptation_examples(rows, EVERY_TEXT, need_next=False)
    assert without[:-1] == with_next
    assert without[-1].next_text == ""


def test_a_lone_passage_serves_without_a_follower() -> None:
    examples, _ = adaptation_examples([Passage("only", "A camel walks.")], EVERY_TEXT)
    assert [(example.text, example.next_text) for example in examples] == [("A camel walks.", "")]


def test_whole_documents_are_held_out_and_always_the_same_ones() -> None:
    rows = [row for number in range(200) for row in document(f"d{number}", 2)]
    settings = TextSettings(min_words=4, max_words=12, held_out=0.2)
    training, held_out = adaptation_examples(rows, settings)
    names = [{example.text.split(" of ")[1].split(".")[0] for example in side} for side in (training, held_out)]
    assert not names[0] & names[1]
    assert 0.1 < len(names[1]) / 200 < 0.3
    assert adaptation_examples(reversed_documents(rows), settings)[1] != []
    again = {example.text for example in adaptation_examples(reversed_documents(rows), settings)[1]}
    assert again == {example.text for example in held_out}


def reversed_documents(rows: list[Passage]) -> list[Passage]:
    return [row for start in range(len(rows) - 2, -1, -2) for row in rows[start : start + 2]]


def test_a_small_corpus_is_never_held_out_whole() -> None:
    training, held_out = adaptation_examples(document("a", 4), TextSettings(min_words=4, held_out=0.999))
    assert training
    assert held_out == []


@pytest.mark.parametrize("rows", [[], [Passage("a", "")], [Passage("a-0", " "), Passage("a-1", "\n")]])
def test_a_corpus_without_text_is_an_error(rows: list[Passage]) -> None:
    with pytest.raises(EmptyCorpusError, match="no text to learn from"):
        adaptation_examples(rows, EVERY_TEXT)

"""Training examples from unlabeled text."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.examples.unlabeled import (
    DocumentTexts,
    adaptation_examples,
    cut_into_pieces,
    group_documents,
    joined,
    limited_passages,
    pairs_from_corpus,
    sentence_parts,
    sentences,
)
from llama2vec.data.settings import CorpusPairSettings, PairShares, TextSettings
from llama2vec.data.text.words import count_words
from llama2vec.errors import ConfigError, CorpusFormatError, EmptyCorpusError
from llama2vec.records import Passage, Place, TrainingExample

NONE = dict.fromkeys(PairShares.model_fields, 0.0)
TEXT = "Llamas are camelids of the Andes. They hum when they are content with life. Many carry wool over high passes."
FIRST, SECOND, THIRD = (f"{sentence.rstrip('.')}." for sentence in TEXT.split(". "))


def settings(*kinds: str, **changes: object) -> CorpusPairSettings:
    return CorpusPairSettings(kinds=PairShares(**{**NONE, **dict.fromkeys(kinds, 1.0)}), **changes)  # type: ignore[arg-type]


def pairs(passages: list[Passage], chosen: CorpusPairSettings, seed: int = 0) -> list[TrainingExample]:
    return list(pairs_from_corpus(passages, chosen, seed))


def one(passage: Passage, chosen: CorpusPairSettings, seed: int = 0) -> TrainingExample:
    (pair,) = pairs([passage], chosen, seed)
    return pair


@pytest.fixture(scope="module")
def corpus(made_up: Callable[[int], str]) -> list[Passage]:
    return [Passage(f"d{number // 4}-{number % 4}", made_up(number), f"Title {number // 4}") for number in range(80)]


@pytest.fixture(scope="module")
def made_up() -> Callable[[int], str]:
    return lambda number: " ".join(
        f"Word{number} number {part} of many goes {'on and ' * part}on." for part in range(1, 5)
    )


def test_a_title_asks_for_its_text_without_the_title() -> None:
    assert one(Passage("a", TEXT, "Llama"), settings("title")) == TrainingExample("Llama", (TEXT,), positive_ids=("a",))


def test_a_title_that_goes_on_over_a_document_has_all_its_passages_as_positives() -> None:
    passages = [Passage("a-1", TEXT, "Llama"), Passage("a-2", TEXT[::-1], "Llama"), Passage("a-3", TEXT, "Alpaca")]
    first, second = pairs([*passages, Passage("b-4", TEXT, "Alpaca")], settings("title"))[:2]
    assert first == TrainingExample("Llama", (TEXT, TEXT[::-1]), positive_ids=("a-1", "a-2"))
    assert second.positive_ids == ("a-3",)


def test_the_first_sentence_asks_for_the_rest_behind_its_title() -> None:
    pair = one(Passage("a", TEXT, "Llama"), settings("first_sentence"))
    assert pair == TrainingExample(FIRST, (f"Llama {SECOND} {THIRD}",), positive_ids=("a",))


def test_a_first_sentence_that_is_too_short_takes_the_next_one_along() -> None:
    pair = one(Passage("a", f"Yes! {TEXT}"), settings("first_sentence"))
    assert (pair.query, pair.positives) == (f"Yes! {FIRST}", (f"{SECOND} {THIRD}",))


def test_halves_meet_at_the_sentence_end_nearest_to_the_middle_and_either_may_ask() -> None:
    third = "Many of them carry wool and salt over high passes each year."
    # 6, 8 and 12 words: the end after 14 is nearer to 13 than the one after 6.
    halves = {f"{FIRST} {SECOND}", third}
    found = {
        (pair.query, pair.positives[0])
        for seed in range(20)
        for pair in pairs([Passage("a", f"{FIRST} {SECOND} {third}")], settings("halves"), seed)
    }
    assert len(found) == 2
    assert all({query, positive} == halves for query, positive in found)


def test_a_passage_asks_for_the_one_behind_it_in_its_document_only() -> None:
    passages = [Passage("a-1", TEXT, "T"), Passage("a-2", TEXT.upper(), "T"), Passage("b-3", TEXT, "T")]
    assert pairs(passages, settings("neighbors")) == [
        TrainingExample(TEXT, (f"T {TEXT.upper()}",), positive_ids=("a-1",))
    ]


def test_a_crop_is_a_run_of_words_that_its_passage_keeps_or_loses() -> None:
    words = TEXT.split()
    for keep in (0.0, 1.0):
        for seed in range(40):
            pair = one(Passage("a", TEXT, "T"), settings("crop", keep_query_in_passage=keep), seed)
            query = pair.query.split()
            starts = [at for at in range(len(words)) if words[at : at + len(query)] == query]
            assert 3 <= len(query) <= 12
            if keep:
                assert starts
                assert pair.positives == (f"T {TEXT}",)
            else:
                rest = pair.positives[0].split()[1:]
                assert len(rest) >= 8
                assert rest in [words[:at] + words[at + len(query) :] for at in starts]


def test_the_share_of_kept_crops_is_what_was_asked(corpus: list[Passage]) -> None:
    whole = {passage.full_text for passage in corpus}
    found = [
        pair.positives[0] in whole
        for seed in range(10)
        for pair in pairs(corpus, settings("crop", keep_query_in_passage=0.3), seed)
    ]
    assert len(found) == 800
    assert 0.25 < sum(found) / len(found) < 0.36


def test_shares_are_kept_kind_by_kind(corpus: list[Passage]) -> None:
    shares = PairShares(**{**NONE, "halves": 0.5, "crop": 0.25})
    drawn = [len(pairs(corpus, CorpusPairSettings(kinds=shares), seed)) for seed in range(10)]
    assert 0.69 < sum(drawn) / 800 < 0.81


def test_what_is_drawn_hangs_on_seed_passage_and_kind_alone(corpus: list[Passage]) -> None:
    everything = settings("first_sentence", "halves", "crop")
    whole = pairs(corpus, everything)
    assert pairs(corpus, everything) == whole != pairs(corpus, everything, seed=1)
    alone = [pair for passage in corpus for pair in pairs([passage], everything)]
    assert alone == whole
    crops = pairs(corpus, settings("crop"))
    assert crops == [pair for pair in whole if pair in crops]


def test_pairs_of_one_passage_share_its_id_and_hold_no_empty_text(corpus: list[Passage]) -> None:
    odd = [
        Passage("e", ""), Passage("s", "Too short."), Passage("d", "- " * 30, "***"), Passage("t", "", "Title"),
        Passage("w", " \n " + "same " * 9, "same"), Passage("l", "word " * 500),
    ]  # fmt: skip
    chosen = CorpusPairSettings(kinds=PairShares(neighbors=1))
    found = pairs([*odd, *corpus], chosen)
    known = {passage.id for passage in corpus} | {"w", "l"}
    assert {passage_id for pair in found for passage_id in pair.positive_ids} == known
    for pair in found:
        assert len(pair.positive_ids) == len(pair.positives) >= 1
        assert pair.query.strip()
        assert all(len(text.split()) >= 8 and text != pair.query for text in pair.positives)
        assert len(pair.query.split()) <= chosen.query_max_words


def test_a_limit_of_text_takes_passages_from_all_over_the_corpus_with_what_follows_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llama2vec")
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"{name}-{number}", "text": f"{name} {number}"} for name in "abcdefghij" for number in range(4)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = [passage.id for passage in limited_passages(str(corpus), 12)]
    assert found == [f"{name}-{number}" for name in "aeh" for number in range(4)]
    assert caplog.messages == [f"{corpus}: 12 of 40 passages, spread evenly"]
    caplog.clear()
    for limit in (0, 40, 99):
        assert len(list(limited_passages(str(corpus), limit))) == 40
    assert caplog.messages == []
    # Rows of the authors' data have ids that count, but do not belong together.
    rows = [authors_row(number) for number in range(40)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [one.id.rpartition(":")[2] for one in limited_passages(str(corpus), 4)] == ["1", "11", "21", "31"]


def test_a_limit_takes_the_first_passages_of_a_hub_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llama2vec")
    rows = [authors_row(number) for number in range(5)]
    monkeypatch.setattr("llama2vec.data.corpus.passages.open_hub_dataset", lambda where: rows)
    assert [one.id for one in limited_passages("hf:me/data", 2)] == ["0", "1"]
    assert caplog.messages == ["hf:me/data: at most its first 2 passages, because it is not counted before it is read"]


def test_a_query_that_is_too_long_loses_its_end() -> None:
    passages = [Passage("a-1", " ".join(map(str, range(100)))), Passage("a-2", TEXT)]
    (pair,) = pairs(passages, settings("neighbors", query_max_words=12))
    assert pair.query == "0 1 2 3 4 5 6 7 8 9 10 11"


def test_the_limit_counts_passages(corpus: list[Passage]) -> None:
    assert len(pairs(corpus, settings("crop", limit=5))) == 5


def test_a_limit_spreads_over_the_corpus_and_keeps_neighbors_and_titles(made_up: Callable[[int], str]) -> None:
    passages = [
        Passage(f"{name}-{number}", made_up(30), f"Title {name}") for name in "abcdefghij" for number in range(1, 5)
    ]
    found = pairs(passages, settings("neighbors", "title", limit=10))
    asking = [one.positive_ids[0] for one in found]
    assert asking == [f"{name}-1" for name in "abcdefghij" for _ in ("title", "neighbors")]
    by_neighbor = {one.positive_ids[0]: one for one in found if len(one.positives) == 1}
    assert by_neighbor["j-1"].positives == (passages[-3].full_text,)
    assert list(pairs_from_corpus(iter(passages), settings("neighbors", "title", limit=10), 0, 40)) == found
    # The draws of a passage are those that it has without a limit.
    assert [one for one in pairs(passages, settings("neighbors", "title")) if one in found] == found


def test_a_corpus_without_a_pair_is_one_line() -> None:
    with pytest.raises(EmptyCorpusError, match="gives no pairs: no passage has 8 words"):
        pairs([Passage("a", "Short.")], CorpusPairSettings())


def test_settings_that_cannot_give_a_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the share of every kind is 0"):
        load_config(CorpusPairSettings, None, [f"kinds.{kind}=0" for kind in NONE])
    with pytest.raises(ConfigError, match="must hold"):
        load_config(CorpusPairSettings, None, ["crop_max_words=2"])
    with pytest.raises(ConfigError, match=r"did you mean 'kinds\.halves'"):
        load_config(CorpusPairSettings, None, ["kinds.halfs=1"])


def test_titles_and_crops_need_no_sentence_cutter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    assert len(pairs([Passage("a", TEXT, "Llama")], settings("title", "crop"))) == 2


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


def test_documents_whose_numbers_do_not_begin_at_0_or_1_each_have_a_draw_of_their_own() -> None:
    words = "One two three four five. " * 20
    rows = [Passage(f"MED-{number}", words) for number in range(10, 2010, 10)]
    assert [one.id for one in group_documents(rows[:2])] == ["MED-10", "MED-20"]
    training, held_out = adaptation_examples(rows, TextSettings())
    documents = len(rows) * len(held_out) / (len(training) + len(held_out))
    assert 0 < documents < 0.06 * len(rows)
    firsts = {cut_into_pieces(one, TextSettings())[0] for one in group_documents(rows)}
    assert len(firsts) > 3


def test_passages_without_numbers_stand_alone() -> None:
    rows = [Passage("x", "1"), Passage("x", "2"), Passage("a-0", "3"), Passage("y", "4"), Passage("a-1", "5")]
    assert [one.texts for one in group_documents(rows)] == [("1",), ("2",), ("3",), ("4",), ("5",)]
    assert list(group_documents([])) == []


def test_sentences_end_where_a_paragraph_does_and_hold_single_spaces() -> None:
    text = "Dr. Smith went home.  He slept.\n\nA heading\n\nThe end"
    assert sentences(text) == ["Dr. Smith went home.", "He slept.", "A heading", "The end"]
    assert sentences("") == sentences(" \n ") == []


def test_no_word_is_lost_and_order_is_kept() -> None:
    whole = DocumentTexts("a", tuple(row.text for row in document("a", 9)))
    pieces = cut_into_pieces(whole, EVERY_TEXT, seed=3)
    assert " ".join(pieces) == " ".join(whole.texts)
    assert len(pieces) > 1


def test_pieces_have_a_length_between_the_limits() -> None:
    whole = DocumentTexts("a", tuple("One two three four five." for _ in range(60)))
    settings = TextSettings(min_words=8, max_words=30)
    sizes = [len(piece.split()) for piece in cut_into_pieces(whole, settings)]
    assert all(8 <= size <= 30 for size in sizes[:-1])
    assert 8 <= sizes[-1] < 30 + 8
    assert len(set(sizes)) > 2


def test_texts_without_spaces_are_cut_by_their_signs() -> None:
    sentence = "羊驼是安第斯山脉的骆驼科动物。它们满足时会哼鸣。"  # 14 and 8 signs
    whole = DocumentTexts("a", (sentence * 20,))
    pieces = cut_into_pieces(whole, TextSettings(language="zh"))
    assert all(8 <= count_words(piece) <= 64 for piece in pieces[:-1])
    assert "".join(pieces) == sentence * 20  # No space comes in
    assert len(pieces) > 5


def test_pairs_of_texts_without_spaces_have_queries_and_passages_of_the_wanted_length() -> None:
    text = "羊驼是安第斯山脉的骆驼科动物。它们满足时会哼鸣。" * 3
    found = pairs([Passage("a", text)], settings("first_sentence", "halves", "crop", keep_query_in_passage=1))
    assert len(found) == 3
    assert all(3 <= count_words(pair.query) <= 64 for pair in found)
    first, halves, crop = found
    assert first.query + first.positives[0] == text
    assert text in (halves.query + halves.positives[0], halves.positives[0] + halves.query)
    assert crop.query in text
    assert crop.positives == (text,)


def test_a_crop_that_its_passage_loses_leaves_no_space_in_a_text_without_spaces() -> None:
    text = "羊驼是安第斯山脉的骆驼科动物。它们满足时会哼鸣。" * 3
    for seed in range(20):
        pair = one(Passage("a", text), settings("crop", keep_query_in_passage=0), seed)
        rest = pair.positives[0]
        assert any(rest[:at] + pair.query + rest[at:] == text for at in range(len(rest) + 1))


def test_sentences_are_joined_with_the_space_that_stood_between_them() -> None:
    text = "  羊驼哼鸣。它们吃草。\u3000草是绿的。\n\nThey hum.  They  eat."
    parts = sentence_parts(text, "zh")
    assert [part.rstrip() for part in parts] == sentences(text, "zh")
    assert joined(parts) == "羊驼哼鸣。它们吃草。 草是绿的。 They hum. They eat."
    spaced = " ".join(text.upper() for text in (TEXT, TEXT))
    assert joined(sentence_parts(spaced)) == " ".join(sentences(spaced)) == spaced


def test_texts_of_a_document_and_its_last_piece_are_joined_with_a_space() -> None:
    whole = DocumentTexts("a", ("羊驼哼鸣。它们吃草。", "草是绿的。"))
    assert cut_into_pieces(whole, TextSettings(language="zh")) == ["羊驼哼鸣。它们吃草。 草是绿的。"]
    rest = DocumentTexts("a", ("一" * 63 + "。", "草是绿的。"))
    assert cut_into_pieces(rest, TextSettings(language="zh", draw_lengths=False)) == ["一" * 63 + "。 草是绿的。"]


def test_equal_limits_give_pieces_of_one_length() -> None:
    whole = DocumentTexts("a", tuple("One two three four five." for _ in range(40)))
    assert {len(piece.split()) for piece in cut_into_pieces(whole, TextSettings(min_words=20, max_words=20))} == {20}


def test_pieces_are_filled_like_the_authors_rows_where_no_length_is_drawn() -> None:
    draw = random.Random(3)
    sizes = [draw.randint(5, 30) for _ in range(400)]
    whole = DocumentTexts("a", tuple(" ".join(["Word", *["and"] * (size - 2), "so."]) for size in sizes))
    settings = TextSettings(min_words=64, max_words=500, draw_lengths=False)
    *pieces, _ = cut_into_pieces(whole, settings)
    # Sentences of up to 30 words fill 500: no piece is over it, and the next sentence would not have fitted.
    assert all(470 < len(piece.split()) <= 500 for piece in pieces)
    drawn = cut_into_pieces(whole, TextSettings(min_words=64, max_words=500))
    assert min(len(piece.split()) for piece in drawn[:-1]) < 470


def test_a_long_sentence_stays_whole_and_a_short_rest_joins_its_neighbor() -> None:
    long = " ".join(["word"] * 40) + "."
    pieces = cut_into_pieces(DocumentTexts("a", (long, "Short rest.")), EVERY_TEXT)
    assert pieces == [f"{long} Short rest."]
    assert cut_into_pieces(DocumentTexts("a", ("Two words.",)), EVERY_TEXT) == ["Two words."]


def test_the_cut_depends_on_seed_and_document_alone() -> None:
    texts = tuple("One two three four five." for _ in range(50))
    settings = TextSettings(min_words=5, max_words=40)
    one, other = DocumentTexts("a", texts), DocumentTexts("b", texts)
    assert cut_into_pieces(one, settings, 1) == cut_into_pieces(one, settings, 1)
    assert cut_into_pieces(one, settings, 1) != cut_into_pieces(one, settings, 2)
    assert cut_into_pieces(one, settings, 1) != cut_into_pieces(other, settings, 1)


def test_each_pair_is_a_piece_and_the_one_behind_it() -> None:
    rows = document("a", 6)
    pieces = cut_into_pieces(next(group_documents(rows)), EVERY_TEXT, 0)
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


def test_text_that_passages_of_a_document_share_is_learned_from_once() -> None:
    text = "One hums. Two flies. Three swims."
    first, second = Place("d.md", 0, 20), Place("d.md", 10, 33)
    passages = [Passage("d.md#1", text[:20], place=first), Passage("d.md#2", text[10:], place=second)]
    (document,) = group_documents(passages)
    assert "".join(document.texts) == text
    other = Passage("d.md#2", text[10:], place=Place("e.md", 10, 33))
    assert [one.texts for one in group_documents([passages[0], other])] == [(text[:20], text[10:])]


def test_a_document_of_300_pages_gives_many_examples() -> None:
    page = " ".join(f"The crane number {number} flies over the wide river." for number in range(40))
    book = Passage("book.pdf", "\n\n".join(f"{page} Page {number} ends." for number in range(300)))
    training, held_out = adaptation_examples([book], TextSettings())
    assert len(training) + len(held_out) > 1500
    assert max(len(one.text.split()) for one in training) <= 64 + 9
    assert sum(not one.next_text for one in training) == 0


def authors_row(number: int, **changes: str) -> dict[str, str]:
    """A row as the authors' toy data have it: the input twice, both ending in white space, and the next input."""
    text, following = (f"Llamas carry load {count}. They hum.\t\n" for count in (number, number + 1))
    return {"input": text, "output_summarize": text, "output_predict": following, **changes}


def test_rows_of_the_authors_data_are_pairs_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "toy_pretrain_data.jsonl"
    path.write_text("".join(json.dumps(authors_row(number)) + "\n" for number in range(11)), encoding="utf-8")
    passages = list(read_passages(path))
    assert [passage.id for passage in passages[:2]] == ["toy_pretrain_data.jsonl:1", "toy_pretrain_data.jsonl:2"]
    # A limit on words would cut other texts.
    training, held_out = adaptation_examples(passages, TextSettings(min_words=1, max_words=3, held_out=0.0))
    assert not held_out
    assert [(one.text, one.next_text) for one in training] == [
        (authors_row(number)["input"], authors_row(number + 1)["input"]) for number in range(11)
    ]
    training, held_out = adaptation_examples(passages, TextSettings(held_out=0.4))
    assert len(training) + len(held_out) == 11
    assert held_out


def test_rows_of_the_authors_data_are_read_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [authors_row(number) for number in range(3)]
    monkeypatch.setattr("llama2vec.data.corpus.passages.open_hub_dataset", lambda where: rows)
    training, _ = adaptation_examples(read_passages("hf:cfli/pretrain_wiki", limit=2), TextSettings(held_out=0.0))
    assert [one.next_text for one in training] == [row["output_predict"] for row in rows[:2]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (authors_row(1, output_summarize="Another text."), "has an output_summarize other than its input"),
        ({**authors_row(1), "output_predict": 3}, "has the output_predict 3; write a string"),
    ],
)
def test_a_faulty_row_of_the_authors_data_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(CorpusFormatError, match=rf"rows\.jsonl:1 {message}"):
        list(read_passages(path))

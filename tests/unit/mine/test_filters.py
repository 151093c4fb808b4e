"""What is removed, what is chosen, and what the report says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from made_examples import OPEN, ListSearcher, TopicEncoder, chosen_rows, plain, with_bm25

from llama2vec.data.text.words import is_paired
from llama2vec.mine.candidates import Bm25Searcher, DenseSearcher
from llama2vec.mine.filters import containment, shingles
from llama2vec.mine.mining import mine
from llama2vec.records import Passage, Place, Query, TrainingExample
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.store.reader import VectorStore


def test_planted_duplicates_and_paraphrases_of_positives_are_removed_and_counted(
    examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    positives = [example.positives[0] for example in examples]
    copies = [Passage(f"copy-{n}", f"  {text.upper()}\n") for n, text in enumerate(positives)]
    titled = [Passage(f"titled-{n}", text, "A title") for n, text in enumerate(positives[:4])]
    edited = [
        Passage(f"edited-{n}", " ".join(["Lately", *text.split()[:-3], "and more"])) for n, text in enumerate(positives)
    ]
    planted = [*corpus, *copies, *titled, *edited]
    result = with_bm25(examples, planted, near_duplicate=0.5, negatives=20)
    report = result.report
    assert report.removed("known_positive") == 6
    assert report.removed("identical_to_positive") == 10
    removed = {reason: entry["passages"] for reason, entry in report.to_dict()["removed"].items()}
    assert removed["identical_to_positive"] == len(copies) + len(titled)
    assert removed["near_duplicate_of_positive"] == len(edited)
    chosen = {passage_id for example in result.examples for passage_id in example.negative_ids}
    assert not {passage_id for passage_id in chosen if passage_id.startswith(("copy", "titled", "edited"))}
    facts = report.to_dict()["removed"]["near_duplicate_of_positive"]
    assert (facts["candidates"], facts["queries"], facts["passages"]) == (6, 6, 6)
    assert facts["examples"][0]["query"] == "about the llama"
    assert facts["examples"][0]["passage_id"] == "edited-0"
    assert facts["examples"][0]["positive"].startswith(positives[0][:100])
    assert len(facts["examples"]) == 5
    assert "removed        10  identical_to_positive" in report.summary()
    # Without the filter the paraphrases come through: it is the filter that finds them.
    assert with_bm25(examples, planted, negatives=20).report.removed("near_duplicate_of_positive") == 0


def test_positives_of_another_row_with_the_same_query_are_known(corpus: list[Passage]) -> None:
    rows = [
        TrainingExample("about the LLAMA", (corpus[3].text,)),
        TrainingExample("about  the llama", (corpus[4].text,), query_id="q"),
        TrainingExample("llama, otherwise", (corpus[5].text,), query_id="q"),
    ]
    result = with_bm25(rows, corpus, negatives=12)
    negatives = [set(example.negative_ids) for example in result.examples]
    assert [f"llama-{n}" in negatives[0] for n in (3, 4, 5)] == [False, False, True]
    assert [f"llama-{n}" in negatives[1] for n in (3, 4, 5)] == [False, False, False]
    assert [f"llama-{n}" in negatives[2] for n in (3, 4, 5)] == [True, False, False]


def test_a_positive_counts_by_its_id_even_where_the_corpus_words_it_otherwise(corpus: list[Passage]) -> None:
    row = TrainingExample("about the llama", ("a shortened text",), positive_ids=("llama-6",))
    copy = Passage("copy", corpus[6].text)
    result = with_bm25([row], [*corpus, copy], negatives=12)
    assert not {"llama-6", "copy"} & set(result.examples[0].negative_ids)
    assert (result.report.removed("known_positive"), result.report.removed("identical_to_positive")) == (1, 1)


def test_the_id_of_another_text_is_not_trusted(corpus: list[Passage], caplog: pytest.LogCaptureFixture) -> None:
    # The corpus was split otherwise: the text of the positive stands under another id, or under none.
    found = TrainingExample("about the llama", (corpus[11].text,), positive_ids=("llama-1",))
    lost = TrainingExample("about the camel", ("the camel walks alone",), positive_ids=("camel-1",))
    settings = {"write_scores": True, "negatives": 12}
    right = with_bm25([replace(found, positive_ids=("llama-11",))], corpus, **settings)
    assert "id of" not in caplog.text
    wrong = with_bm25([found, lost], corpus, **settings)
    assert wrong.examples[0].positive_scores == right.examples[0].positive_scores
    assert not {"llama-1", "llama-11"} & set(wrong.examples[0].negative_ids)
    assert (wrong.report.unknown_positives, wrong.report.misnamed_positives) == (1, 1)
    assert "1 positive not in the corpus, 1 with the id of another text" in wrong.report.summary()
    assert "another text under the id of 1 positive, whose own text was used" in caplog.text


def test_a_part_of_a_passage_counts_by_its_id(corpus: list[Passage]) -> None:
    words = corpus[6].text.split()
    without_a_few = " ".join([*words[:9], *words[14:]])
    row = TrainingExample("about the llama", (without_a_few,), positive_ids=("llama-6",))
    report = with_bm25([row], corpus).report
    assert (report.unknown_positives, report.misnamed_positives) == (0, 0)


def test_the_parts_of_a_document_that_is_known_as_a_whole_are_no_negatives(corpus: list[Passage]) -> None:
    parts = [replace(one, place=Place("guide", n, n + 1)) if n < 3 else one for n, one in enumerate(corpus)]
    example = TrainingExample("about the llama", (corpus[3].text,), positive_ids=("guide",))
    chosen = set(with_bm25([example], parts, negatives=20).examples[0].negative_ids)
    assert chosen
    assert not chosen & {one.id for one in corpus[:3]}


def test_the_query_empty_texts_and_repeated_negatives_are_removed(corpus: list[Passage]) -> None:
    odd = [Passage("q", "About the  llama"), Passage("e", " "), Passage("again", corpus[11].text.title())]
    row = TrainingExample("about the llama", (corpus[6].text,), query_id="q")
    everything = [*corpus[:12], *odd]
    searcher = ListSearcher(list(range(len(everything))))
    report = mine([row], everything, [searcher], OPEN.model_copy(update={"negatives": 20})).report
    assert {reason: report.removed(reason) for reason in ("query_itself", "empty", "duplicate_negative")} == {
        "query_itself": 1,
        "empty": 1,
        "duplicate_negative": 1,
    }
    (example,) = report.to_dict()["removed"]["duplicate_negative"]["examples"]
    assert example["passage_id"] == "again"


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({"max_share_of_positive": 0.95}, 24),  # 0.8 · 0.95 = 0.76
        ({"margin": 0.1}, 30),  # 0.8 - 0.1 = 0.7
        ({"max_share_of_positive": 0.95, "margin": 0.1}, 30),
        ({"max_share_of_positive": 1.0}, 21),
        ({}, 0),
    ],
)
def test_candidates_close_to_the_positive_or_above_it_are_dropped(changes: dict[str, float], best: int) -> None:
    row = TrainingExample("q", ("text number 20",))  # scores 0.8
    settings = OPEN.model_copy(update={"negatives": 100, "last_rank": 100, **changes})
    result = mine([row], plain(60), [ListSearcher(list(range(60)))], settings)
    assert chosen_rows(result.examples[0]) == [number for number in range(best, 60) if number != 20]
    assert result.report.removed("too_close_to_positive") == (best - 1 if best > 20 else 0)


def test_the_least_scored_of_several_positives_is_the_bound() -> None:
    row = TrainingExample("q", ("text number 5", "text number 40"))
    settings = OPEN.model_copy(update={"max_share_of_positive": 1.0})
    result = mine([row], plain(60), [ListSearcher(list(range(60)))], settings)
    assert chosen_rows(result.examples[0]) == [41, 42, 43]


def test_a_positive_that_bm25_knows_nothing_of_sets_no_bound(corpus: list[Passage]) -> None:
    rows = [TrainingExample("about the llama", ("nothing in common",)), TrainingExample("sheep", (corpus[24].text,))]
    report = with_bm25(rows, corpus, max_share_of_positive=0.95).report
    assert (report.unbounded, report.unknown_positives) == (1, 1)
    assert report.to_dict()["short"]["by_negatives"] == {"0": 1}  # sheep-0 is the worst of its topic


def test_a_positive_outside_the_retrieved_list_or_the_corpus_is_scored_all_the_same(
    corpus: list[Passage], make_store: Callable[..., VectorStore]
) -> None:
    encoder = TopicEncoder()
    searcher = DenseSearcher(ExactIndex(make_store(corpus)), encoder)
    unknown = "goat goat goat sheep"
    found = next(iter(searcher.search([Query("q", "about the llama")], [(6, unknown, 11)], 3)))
    assert found.rows.tolist() == [0, 1, 2]
    query, *others = encoder._vectors(["about the llama", corpus[6].text, unknown, corpus[11].text])
    assert found.target_scores == pytest.approx([float(vector @ query) for vector in others], abs=1e-6)
    texts = {"a llama": corpus[11].text, "the llama": corpus[0].text, "one llama": unknown}
    rows = [TrainingExample(query, (text,)) for query, text in texts.items()]
    settings = OPEN.model_copy(update={"last_rank": 3, "max_share_of_positive": 0.999})
    mined = mine(rows, corpus, [searcher], settings)
    # The first and the last positive score lower than all of the three best, the second higher than the other two.
    assert [len(example.negatives) for example in mined.examples] == [0, 2, 0]
    assert (mined.report.unknown_positives, mined.report.unbounded) == (1, 0)


def test_the_window_counts_ranks_as_searched() -> None:
    row = TrainingExample("q", ("text number 0",))
    settings = OPEN.model_copy(update={"first_rank": 10, "last_rank": 14, "negatives": 9})
    result = mine([row], plain(60), [ListSearcher(list(range(60)))], settings)
    assert chosen_rows(result.examples[0]) == [9, 10, 11, 12, 13]
    assert result.report.candidates == 5
    assert result.report.to_dict()["ranks"]["list"] == {
        "lowest": 10, "median": 12, "highest": 14, "spans": {"2-10": 1, "11-20": 4},
    }  # fmt: skip


def test_two_searchers_give_the_union_of_their_windows_less_what_one_ranks_above_it() -> None:
    judge, other = ListSearcher([0, 1, 2, 3, 4], 60), ListSearcher([4, 50, 51, 3, 52], 60)
    other.name = "other"
    row = TrainingExample("q", ("text number 59",))
    settings = OPEN.model_copy(update={"first_rank": 2, "last_rank": 5, "negatives": 20, "write_scores": True})
    result = mine([row], plain(60), [judge, other], settings)
    assert chosen_rows(result.examples[0]) == [1, 50, 2, 51, 3, 52]
    removed = result.report.to_dict()["removed"]["above_window"]["examples"]
    assert {one["passage_id"] for one in removed} == {"p04"}
    assert result.report.to_dict()["found_by"] == {"list": 2, "other": 3, "list and other": 1}
    # What only the other found is scored by the judge as well.
    assert result.examples[0].negative_scores == pytest.approx((0.99, 0.5, 0.98, 0.49, 0.97, 0.48))
    assert result.examples[0].positive_scores == pytest.approx((0.41,))


def test_the_draw_depends_on_seed_and_query_and_on_no_order(
    examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    sampled = {"choose": "sample", "negatives": 3}

    def drawn(rows: Sequence[TrainingExample], passages: Sequence[Passage], **changes: Any) -> dict[str, set[str]]:
        result = with_bm25(rows, passages, **sampled, **changes)
        return {example.query_id: set(example.negative_ids) for example in result.examples}

    first = drawn(examples, corpus)
    assert drawn(examples[::-1], corpus[::-1]) == first
    assert drawn(examples[2:4], corpus) == {query_id: first[query_id] for query_id in ("q2", "q3")}
    assert drawn(examples, corpus, seed=1) != first
    assert len({frozenset(name.split("-")[1] for name in names) for names in first.values()}) > 1


def test_the_draw_is_even_over_the_window() -> None:
    rows = [TrainingExample(f"query {number}", ("text number 20",)) for number in range(400)]
    settings = OPEN.model_copy(update={"choose": "sample", "negatives": 4, "last_rank": 21})
    mined = mine(rows, plain(30), [ListSearcher(list(range(30)))], settings).examples
    counts = Counter(row for example in mined for row in chosen_rows(example))
    assert sorted(counts) == list(range(20))
    # 80 expected each, standard deviation 8.
    assert min(counts.values()) > 50
    assert max(counts.values()) < 115
    assert all(chosen_rows(example) == sorted(chosen_rows(example)) for example in mined)


def test_existing_negatives_are_replaced_or_kept_and_filled_up(corpus: list[Passage]) -> None:
    row = TrainingExample(
        "about the llama", (corpus[6].text,),
        negatives=("my own negative", corpus[6].text.upper(), "MY own negative", corpus[11].text),
        positive_scores=(1.0,), negative_scores=(0.1, 0.2, 0.3, 0.4),
    )  # fmt: skip
    replaced = with_bm25([row], corpus)
    assert "my own negative" not in replaced.examples[0].negatives
    assert len(replaced.examples[0].negatives) == 3
    assert (replaced.report.replaced, replaced.report.scores_dropped) == (4, 1)
    assert (replaced.examples[0].positive_scores, replaced.examples[0].negative_scores) == ((), ())
    kept = with_bm25([row], corpus, keep_existing=True, write_scores=True)
    negatives = kept.examples[0].negatives
    assert negatives[:2] == ("my own negative", corpus[11].text)
    assert len(set(negatives)) == 3
    assert (kept.report.kept, kept.report.mined) == (2, 1)
    assert (kept.report.removed("known_positive"), kept.report.removed("identical_to_positive")) == (1, 1)
    assert kept.report.removed("duplicate_negative") >= 1
    assert kept.examples[0].negative_ids == ()  # one of them has no id
    assert len(kept.examples[0].negative_scores) == 3
    assert kept.examples[0].negative_scores[0] == 0
    assert with_bm25([row], corpus, keep_existing=True, negatives=1).examples[0].negatives == negatives[:2]


def test_written_scores_are_the_judges_and_fit_the_texts(
    examples: list[TrainingExample], corpus: list[Passage], make_store: Callable[..., VectorStore]
) -> None:
    encoder = TopicEncoder()
    searchers = [DenseSearcher(ExactIndex(make_store(corpus)), encoder), Bm25Searcher(corpus)]
    settings = OPEN.model_copy(update={"write_scores": True, "max_share_of_positive": 0.95})
    for example in mine(examples, corpus, searchers, settings).examples:
        query, *others = encoder._vectors([example.query, *example.positives, *example.negatives])
        expected = [float(vector @ query) for vector in others]
        assert example.positive_scores == pytest.approx(expected[:1], abs=1e-6)
        assert example.negative_scores == pytest.approx(expected[1:], abs=1e-6)
        assert max(example.negative_scores) <= 0.95 * min(example.positive_scores)


@pytest.mark.parametrize("sign", ["あ", "カ", "㐀", "羊", "한", "豈", "\U00020bb7"])
def test_every_sign_that_bm25_pairs_is_a_word_of_its_own(sign: str) -> None:
    assert is_paired(sign)
    # Seven words have three different runs of five.
    assert len(shingles(f"abc{sign}def{sign}ghi{sign}jkl")) == 3


def test_a_text_without_spaces_holds_the_part_cut_out_of_it() -> None:
    whole = "𠮷野家の牛丼は安くて早くて旨い"

    assert containment(shingles(whole), shingles(whole[3:])) == 1
    assert containment(shingles(whole), shingles("羊驼是南美洲的一种家畜")) == 0


@pytest.mark.parametrize("text", ["แมวชอบกินปลาและนอนทั้งวัน", "यह किताब मेज़ पर रखी है और पानी ठंडा है"])
def test_a_part_of_a_text_with_marks_is_held_by_the_whole(text: str) -> None:
    part = text[text.index(" ") + 1 :] if " " in text else text[3:]
    assert len(shingles(text)) > len(shingles(part)) > 1
    assert containment(shingles(text), shingles(part)) == 1
    assert len(shingles("الكِتَابُ عَلَى الطَّاوِلَةِ") & shingles("الكتاب على الطاولة")) == 1

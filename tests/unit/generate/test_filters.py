"""Which questions become queries."""

from __future__ import annotations

import unicodedata

import pytest

from llama2vec.generate.filters import REASONS, Written, filtered, longest_common_run
from llama2vec.generate.settings import GenerateSettings
from llama2vec.records import Passage

PASSAGES = [
    Passage("llama", "The llama carries loads over the passes of the Andes.", "Llama"),
    Passage("alpaca", "The alpaca is kept for its soft wool.", "Alpaca"),
    Passage("condor", "The condor soars for hours without one beat of its wings.", "Condor"),
]
SETTINGS = GenerateSettings(round_trip=1, most_copied=0.6)


@pytest.mark.parametrize(
    ("question", "row", "reason"),
    [
        ("which animal has soft wool", 1, ""),
        ("", 1, "unfinished"),
        ("…?!", 1, "unfinished"),
        ("soft wool", 1, "length"),
        (" ".join(["wool"] * 25), 1, "length"),
        ("what is kept for its soft wool", 1, "copied"),
        ("which animal has soft wool", 0, "round_trip"),
        ("what happens to a bank account", 1, "round_trip"),
    ],
)
def test_a_question_is_refused_for_the_first_reason_that_fits(question: str, row: int, reason: str) -> None:
    kept, refused = filtered([Written(question, row)], PASSAGES, SETTINGS)
    assert ([one.question for one in kept], [one.reason for one in refused]) == (
        ([question], []) if not reason else ([], [reason])
    )
    assert not reason or reason in REASONS


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("question", ["für müde Hände im Frühling", "FÜR MÜDE HÄNDE im FRÜHLING"])
def test_a_copied_question_is_refused_in_every_unicode_form_and_case(form: str, question: str) -> None:
    text = unicodedata.normalize(form, "Ein Bad für müde Hände im Frühling.")
    other = unicodedata.normalize("NFC" if form == "NFD" else "NFD", question)
    (refused,) = filtered([Written(other, 0)], [Passage("bad", text)], SETTINGS.model_copy(update={"round_trip": 0}))[1]
    assert refused.reason == "copied"


@pytest.mark.parametrize(
    "question",
    [
        "1990년대 이후 한국에서 겨울을 나는 두루미의 개체 수가 크게 늘어난 가장 중요한 이유는 무엇인가요?",
        "一九九〇年代以降に日本で越冬するタンチョウの個体数が大きく増加した最も重要な理由は何ですか。",
    ],
)
def test_a_usual_question_in_korean_or_japanese_is_kept(question: str) -> None:
    settings = SETTINGS.model_copy(update={"round_trip": 0})
    (refused,) = filtered([Written(" ".join([question] * 3), 1)], PASSAGES, settings)[1]
    assert (filtered([Written(question, 1)], PASSAGES, settings)[1], refused.reason) == ([], "length")


def test_a_question_counts_once_for_a_passage_and_not_at_all_for_two() -> None:
    twice = [Written("which animal has soft wool", 1), Written("Which animal  has soft wool", 1)]
    kept, refused = filtered(twice, PASSAGES, SETTINGS)
    assert (kept, [one.reason for one in refused]) == ([twice[0]], ["repeated"])
    shared = [Written("what is this animal called", 0), Written("what is this animal called", 2)]
    kept, refused = filtered(shared, PASSAGES, SETTINGS)
    assert (kept, [one.reason for one in refused]) == ([], ["repeated", "repeated"])


def test_without_a_round_trip_any_passage_may_answer() -> None:
    anything = Written("what happens to a bank account", 1)
    assert filtered([anything], PASSAGES, SETTINGS.model_copy(update={"round_trip": 0})) == ([anything], [])


@pytest.mark.parametrize(
    ("first", "second", "run"), [("a b c", "x a b y c", 2), ("", "a", 0), ("a", "", 0), ("a b a b", "b a b", 3)]
)
def test_the_longest_common_run(first: str, second: str, run: int) -> None:
    assert longest_common_run(first.split(), second.split()) == longest_common_run(second.split(), first.split()) == run

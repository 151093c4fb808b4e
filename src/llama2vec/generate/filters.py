"""Which of the written questions become queries: each is refused for the first reason that fits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from llama2vec.data.text.words import estimated_words, text_key
from llama2vec.generate.settings import GenerateSettings
from llama2vec.records import Passage
from llama2vec.retrieve.index.lexical import Bm25Index, split_normalized

REASONS = {
    "unfinished": "had no end within question_max_tokens, or was empty",
    "length": "has fewer words than min_words, or more than max_words",
    "copied": "is copied from the passage",
    "repeated": "was written twice, or for several passages",
    "round_trip": "does not lead BM25 back to its passage",
}
"""Why a question is refused, in the order of the tests."""


class Written(NamedTuple):
    """A question and the passage that it was written for."""

    question: str
    row: int  # The passage, counted from 0 in the corpus


class Refused(NamedTuple):
    """A question that does not become a query."""

    written: Written
    reason: str  # A key of :data:`REASONS`


def filtered(
    written: Sequence[Written], passages: Sequence[Passage], settings: GenerateSettings
) -> tuple[list[Written], list[Refused]]:
    """Split questions into those that are kept and those that are refused, both in their order.

    Args:
        written: Questions; the same one may stand there twice.
        passages: The whole corpus, in the order of the rows.
        settings: The limits.
    """
    rows, seen = defaultdict[str, set[int]](set), set[str]()
    for one in written:
        rows[text_key(one.question)].add(one.row)
    index = Bm25Index.build(passages, language=settings.language) if settings.round_trip else None
    kept, refused = list[Written](), list[Refused]()
    for one in written:
        reason, key = _fault(one, passages[one.row], settings), text_key(one.question)
        # Of two passages with the same question, none is known to be the answer.
        if not reason and (key in seen or len(rows[key]) > 1):
            reason = "repeated"
        seen.add(key)
        if not reason and index is not None:
            _, best = index.best(one.question, settings.round_trip)
            reason = "" if one.row in best.tolist() else "round_trip"
        if reason:
            refused.append(Refused(one, reason))
        else:
            kept.append(one)
    return kept, refused


def _fault(one: Written, passage: Passage, settings: GenerateSettings) -> str:
    if not any(letter.isalnum() for letter in one.question):
        return "unfinished"
    if not settings.min_words <= estimated_words(one.question) <= settings.max_words:
        return "length"
    asked, there = split_normalized(one.question), split_normalized(passage.full_text)
    if asked and longest_common_run(asked, there) > settings.most_copied * len(asked):
        return "copied"
    return ""


def longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest run of words that two texts share.

    >>> longest_common_run("who won the second race".split(), "she won the second race".split())
    4
    """
    best, before = 0, [0] * (len(second) + 1)
    for word in first:
        now = [0] * (len(second) + 1)
        for place, other in enumerate(second, start=1):
            if word == other:
                now[place] = before[place - 1] + 1
        best, before = max(best, *now), now
    return best

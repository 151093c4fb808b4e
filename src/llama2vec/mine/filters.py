"""What may become a negative: one query's candidates, filtered and chosen.

Whatever might be an unlabeled answer is removed: a false negative teaches the wrong thing, whereas a lost candidate
costs nothing, because there are so many. One searcher alone judges scores, the encoder where there is one: BM25's score
says how many words are shared, not whether they answer (NV-Retriever, arXiv 2407.15831, filters by a teacher's cosine).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llama2vec.data.text.words import is_plain, text_key, word_key, word_runs
from llama2vec.errors import DataError
from llama2vec.mine.candidates import TEXT_ID, Retrieved, Target, with_ids
from llama2vec.mine.report import MiningReport
from llama2vec.mine.settings import MineSettings
from llama2vec.records import Passage, TrainingExample
from llama2vec.terminal import counted

_CACHED_PASSAGES = 1 << 13
_SHINGLE_WORDS = 5
_SAME_WORDS = 0.9  # Neighboring passages of a document share fewer, even where they overlap by half
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class _Text:
    """A passage as the filters see it: text, keys that equal texts share, shingles."""

    text: str
    keys: frozenset[str]
    shingles: frozenset[int]

    @classmethod
    def of(cls, passage: Passage) -> _Text:
        """Return a passage's text with its title first."""
        return cls(passage.full_text, _keys(passage) - {""}, shingles(passage.full_text))


@dataclass(frozen=True, slots=True)
class Known:
    """Facts about a query before its search."""

    query_key: str
    ids: frozenset[str]  # of its positives
    rows: frozenset[int]  # of its positives in the corpus; other rows with the same texts are copies
    positives: tuple[_Text, ...]  # their texts, as the examples and as the corpus have them
    keys: frozenset[str]  # of all these texts
    targets: tuple[Target, ...]  # to be scored: its positives, those of namesakes, its own negatives
    own: int  # how many of the targets are this example's positives
    all: int  # how many are positives
    misnamed: int  # how many of its own positives the corpus lacks, and has another text under their id


@dataclass(frozen=True, slots=True)
class _Candidate:
    row: int
    ranks: Mapping[str, int]
    score: float


@dataclass(frozen=True, slots=True)
class _Negative:
    text: str
    id: str  # "" where none is known
    score: float
    keys: frozenset[str]


@dataclass(slots=True)
class Undecided:
    """A query whose candidates have passed the filters, and which of them are taken so far."""

    number: int  # of the query, from 1
    example: TrainingExample
    kept: list[_Negative]  # its own negatives that stay
    waiting: list[_Candidate]  # in the order in which they are taken
    rows: list[int]  # of all that passed, best ranked first
    positive_scores: Sequence[float]  # of its positives
    taken: list[tuple[_Candidate, float]]  # with the score that is written


class Filters:
    """Filter and choose the negatives of one query after the other."""

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        passages: Sequence[Passage],
        names: Sequence[str],
        settings: MineSettings,
        report: MiningReport,
    ) -> None:
        self._passages, self._names, self._settings, self._report = passages, names, settings, report
        self._namesakes: dict[tuple[str, str], list[TrainingExample]] = {}
        wanted_ids: set[str] = set()
        wanted_keys: set[str] = set()
        for example in examples:
            for name in _query_names(example):
                self._namesakes.setdefault(name, []).append(example)
            wanted_ids.update(example.positive_ids, example.negative_ids)
            wanted_keys.update(map(text_key, (*example.positives, *example.negatives)))
        # Only the rows that will be asked for, because a large corpus has many more.
        self._row_of_id: dict[str, int] = {}
        self._row_of_key: dict[str, int] = {}
        for row, passage in enumerate(passages):
            if passage.id in wanted_ids:
                self._row_of_id.setdefault(passage.id, row)
            for key in _keys(passage) & wanted_keys:
                self._row_of_key.setdefault(key, row)
        self._text_of_row = lru_cache(maxsize=_CACHED_PASSAGES)(lambda row: _Text.of(passages[row]))

    def known(self, example: TrainingExample) -> Known:
        """Gather the facts about an example's query."""
        family = {id(found): found for name in _query_names(example) for found in self._namesakes[name]}
        others = [found for found in family.values() if found is not example]
        positives = [pair for found in (example, *others) for pair in with_ids(found.positives, found.positive_ids)]
        rows = [self._row(text, passage_id) for text, passage_id in positives]
        # A passage with the id of a positive is never a negative either, even where its text differs.
        named = [self._row_of_id.get(passage_id) for _, passage_id in positives]
        never = {row for row in (*rows, *named) if row is not None}
        texts = {text: _Text.of(Passage("", text)) for text, _ in positives}
        texts |= {found.text: found for found in map(self._text_of_row, sorted(never))}
        targets: list[Target] = [text if row is None else row for (text, _), row in zip(positives, rows, strict=True)]
        own = list(zip(rows, named, strict=True))[: len(example.positives)]
        if self._settings.keep_existing:
            for text, passage_id in with_ids(example.negatives, example.negative_ids):
                row = self._row(text, passage_id)
                targets.append(text if row is None else row)
        return Known(
            query_key=text_key(example.query),
            ids=frozenset(passage_id for _, passage_id in positives if passage_id),
            rows=frozenset(never),
            positives=tuple(texts.values()),
            keys=frozenset().union(*(text.keys for text in texts.values())),
            targets=tuple(targets),
            own=len(example.positives),
            all=len(positives),
            misnamed=sum(row is None and other is not None for row, other in own),
        )

    def _row(self, text: str, passage_id: str) -> int | None:
        """Return the row of a passage by its id, or else by its text; None where the corpus does not have it.

        An id counts only with its text: a corpus that was split otherwise has other texts under the same ids.
        """
        row = self._row_of_id.get(passage_id) if passage_id else None
        if row is not None and _same_words(text, self._text_of_row(row).text):
            return row
        return self._row_of_key.get(text_key(text))

    def consider(self, example: TrainingExample, known: Known, found: Sequence[Retrieved]) -> Undecided:
        """Filter what the searchers found for a query."""
        report = self._report
        report.queries += 1
        report.misnamed_positives += known.misnamed
        report.unknown_positives += sum(isinstance(target, str) for target in known.targets[: known.own])
        target_scores = found[0].target_scores
        kept = self._kept(example, known, target_scores[known.all :])
        survivors = self._survivors(example, known, found, {key for negative in kept for key in negative.keys})
        waiting, rows = self._ordered(example, survivors), [candidate.row for candidate in survivors]
        return Undecided(report.queries, example, kept, waiting, rows, target_scores[: known.own], [])

    def wanted(self, query: Undecided) -> list[_Candidate]:
        """Take from the candidates of a query as many as it still needs."""
        count = max(self._settings.negatives - len(query.kept) - len(query.taken), 0)
        taken, query.waiting = query.waiting[:count], query.waiting[count:]
        return taken

    def text(self, candidate: _Candidate) -> str:
        """Return a candidate's text, with its title first."""
        return self._text_of_row(candidate.row).text

    def refuse(self, reason: str, query: Undecided, candidate: _Candidate, details: Mapping[str, object]) -> None:
        """Count a candidate that was not taken after all."""
        details = {"ranks": dict(candidate.ranks), "score": candidate.score, **details}
        passage_id, text = self._passages[candidate.row].id, self.text(candidate)
        self._report.remove(reason, query.example.query, passage_id, text, details, number=query.number)

    def choose(self, query: Undecided) -> TrainingExample | None:
        """Return the example with its negatives; None where it has too few and ``short`` drops it."""
        settings, report, example = self._settings, self._report, query.example
        query.taken += [(candidate, candidate.score) for candidate in self.wanted(query)]
        negatives, place = list(query.kept), {row: place for place, row in enumerate(query.rows)}
        for candidate, score in sorted(query.taken, key=lambda pair: place[pair[0].row]):
            passage, text = self._passages[candidate.row], self._text_of_row(candidate.row)
            passage_id = "" if passage.id.startswith(TEXT_ID) else passage.id
            negatives.append(_Negative(text.text, passage_id, score, text.keys))
            report.choose(candidate.ranks)
        if len(negatives) < settings.negatives:
            if settings.short == "error":
                raise DataError(
                    f"the query {example.query[:80]!r} got {len(negatives)} of "
                    f"{counted(settings.negatives, 'negative')}; widen "
                    "the window (mine.last_rank), give a larger corpus, or set mine.short to keep or drop"
                )
            report.come_short(example, len(negatives))
            if settings.short == "drop":
                return None
        return self._rewritten(example, negatives, query.positive_scores)

    def _kept(self, example: TrainingExample, known: Known, scores: Sequence[float]) -> list[_Negative]:
        """Return the example's own negatives without those that are positives."""
        if not self._settings.keep_existing:
            self._report.replaced += len(example.negatives)
            return []
        kept: list[_Negative] = []
        keys: set[str] = set()
        pairs = with_ids(example.negatives, example.negative_ids)
        for (text, passage_id), score in zip(pairs, scores, strict=True):
            negative = _Text.of(Passage(passage_id, text))
            row = self._row(text, passage_id)
            own_id = passage_id or (self._passages[row].id if row is not None else "")
            reason, positive = self._why_not(own_id, negative, known)
            if reason is None and keys & negative.keys:
                reason = "duplicate_negative"
            if reason:
                details = {"source": "the example's own negatives", "positive": positive}
                self._report.remove(reason, example.query, own_id, text, details)
                continue
            keys |= negative.keys
            kept.append(_Negative(text, "" if own_id.startswith(TEXT_ID) else own_id, score, negative.keys))
        self._report.kept += len(kept)
        return kept

    def _survivors(
        self, example: TrainingExample, known: Known, found: Sequence[Retrieved], seen: set[str]
    ) -> list[_Candidate]:
        """Return the window's candidates that pass every filter, best ranked first; add their keys to ``seen``."""
        positive_scores = found[0].target_scores[: known.all]
        bound = self._bound(positive_scores)
        survivors: list[_Candidate] = []
        for candidate in self._window(found):
            passage, text = self._passages[candidate.row], self._text_of_row(candidate.row)
            reason, positive = self._why_not(passage.id, text, known)
            # A document that answers the query may have been split; none of its parts is a negative.
            if candidate.row in known.rows or (passage.place and passage.place.document in known.ids):
                reason = "known_positive"
            if reason is None and min(candidate.ranks.values()) < self._settings.first_rank:
                reason = "above_window"
            elif reason is None and candidate.score > bound:
                reason = "too_close_to_positive"
            elif reason is None and seen & text.keys:
                reason = "duplicate_negative"
            if reason is None:
                seen |= text.keys
                survivors.append(candidate)
                continue
            details = {"ranks": dict(candidate.ranks), "score": candidate.score}
            details |= {"positive": positive, "least_positive_score": min(positive_scores)}
            self._report.remove(reason, example.query, passage.id, text.text, details)
        return survivors

    def _window(self, found: Sequence[Retrieved]) -> Iterator[_Candidate]:
        """Yield the candidates in any searcher's window by best rank; the judge's come first among equal ranks."""
        ranks: dict[int, dict[str, int]] = {}
        lists = [(name, one.rows.tolist()) for name, one in zip(self._names, found, strict=True)]
        for place in range(max(len(rows) for _, rows in lists)):
            for name, rows in lists:
                if place < len(rows):
                    ranks.setdefault(rows[place], {})[name] = place + 1
        scores = dict(zip(lists[0][1], found[0].scores.tolist(), strict=True))
        unscored = [row for row in ranks if row not in scores]
        if unscored:
            scores |= dict(zip(unscored, found[0].score_rows(unscored), strict=True))
        for row, by_name in ranks.items():
            if max(by_name.values()) >= self._settings.first_rank:
                self._report.candidates += 1
                yield _Candidate(row, by_name, scores[row])

    def _why_not(self, passage_id: str, text: _Text, known: Known) -> tuple[str | None, str]:
        """Return why a text cannot be a negative of the query (None if it can), and the positive it resembles."""
        first = known.positives[0].text
        if passage_id in known.ids:
            return "known_positive", first
        if not text.keys:
            return "empty", first
        if text.keys & known.keys:
            return "identical_to_positive", next(one.text for one in known.positives if one.keys & text.keys)
        least = self._settings.near_duplicate
        for positive in known.positives:
            if least and containment(text.shingles, positive.shingles) >= least:
                return "near_duplicate_of_positive", positive.text
        return ("query_itself" if known.query_key in text.keys else None), first

    def _bound(self, positive_scores: Sequence[float]) -> float:
        """Return the highest score that a negative may have."""
        share, margin = self._settings.max_share_of_positive, self._settings.margin
        telling = [score for score in positive_scores if score != 0]
        if not telling and (share or margin):
            self._report.unbounded += 1
        if not telling:
            return math.inf
        least = min(telling)
        return min(share_of(least, share), least - margin if margin else math.inf)

    def _ordered(self, example: TrainingExample, survivors: list[_Candidate]) -> list[_Candidate]:
        """Return the candidates in the order in which they become negatives."""
        if self._settings.choose == "top":
            return survivors
        # Taking the smallest hashes of (seed, query, passage) is an even draw that no order can change.
        seed = f"{self._settings.seed}\0{example.query_id}\0{text_key(example.query)}\0"

        def lot(candidate: _Candidate) -> bytes:
            name = f"{seed}{self._passages[candidate.row].id}"
            return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()

        return sorted(survivors, key=lot)

    def _rewritten(
        self, example: TrainingExample, negatives: Sequence[_Negative], positive_scores: Sequence[float]
    ) -> TrainingExample:
        """Return the example with these negatives; a teacher's scores of the old ones are dropped with them."""
        ids = tuple(negative.id for negative in negatives)
        with_scores = self._settings.write_scores or bool(self._settings.teacher)
        if not with_scores and (example.positive_scores or example.negative_scores):
            self._report.scores_dropped += 1
        return dataclasses.replace(
            example,
            negatives=tuple(negative.text for negative in negatives),
            negative_ids=ids if all(ids) else (),
            positive_scores=tuple(positive_scores) if with_scores else (),
            negative_scores=tuple(negative.score for negative in negatives) if with_scores else (),
        )


def share_of(score: float, share: float) -> float:
    """Return a share of a score, below it also if it is negative; infinity for a share of 0, which sets no bound.

    >>> share_of(2.0, 0.75), share_of(-2.0, 0.75), share_of(2.0, 0)
    (1.5, -2.5, inf)
    """
    return score - (1 - share) * abs(score) if share else math.inf


def _keys(passage: Passage) -> frozenset[str]:
    """Return the keys of the body and of title with body, because sources differ in what they call the text."""
    return frozenset(map(text_key, {passage.full_text, passage.text}))


def _same_words(first: str, second: str) -> bool:
    """Tell whether the shorter of two texts consists of the other's words, but for a few: a part or another edition."""
    counts = [Counter(_words(word_key(text))) for text in (first, second)]
    return (counts[0] & counts[1]).total() >= _SAME_WORDS * min(one.total() for one in counts)


def _query_names(example: TrainingExample) -> list[tuple[str, str]]:
    """Return what identifies an example's query: its text, and its id if it has one."""
    names = [("text", text_key(example.query))]
    return [*names, ("id", example.query_id)] if example.query_id else names


def shingles(text: str) -> frozenset[int]:
    """Return the hashes of a text's word 5-grams, or of all its words if there are fewer; stable within one process.

    >>> len(shingles("one two three four five six, SIX")), len(shingles("one two")), len(shingles(""))
    (3, 1, 0)
    """
    words = _words(word_key(text))
    if not words:
        return frozenset()
    width = min(_SHINGLE_WORDS, len(words))
    return frozenset(map(hash, zip(*(words[start:] for start in range(width)), strict=False)))


def _words(text: str) -> list[str]:
    """Return the words of a text; of scripts that are written without spaces, and of Korean, each letter counts."""
    if is_plain(text):
        return _WORD.findall(text)
    return [text[begin:end] for run in word_runs(text) for begin, end in run]


def containment(first: frozenset[int], second: frozenset[int]) -> float:
    """Return the share of the smaller set that the other has too, 0..1 (Broder 1997, containment of shingles).

    >>> containment(frozenset({1, 2}), frozenset({2, 3, 4, 5}))
    0.5
    """
    smaller = min(len(first), len(second))
    return len(first & second) / smaller if smaller else 0.0

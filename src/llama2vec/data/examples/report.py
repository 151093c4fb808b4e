"""A survey of labeled training data: every problem, what looks odd, and how long the texts are."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from llama2vec.data.examples.labeled import no_rows, scan_examples
from llama2vec.data.examples.rows import ExampleRow
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.text.words import count_words, text_key
from llama2vec.errors import DataError
from llama2vec.records import TrainingExample
from llama2vec.tables import Table
from llama2vec.terminal import counted

Role = Literal["queries", "positives", "negatives"]
_ROLES: tuple[Role, ...] = ("queries", "positives", "negatives")
_PERCENTILES = (50, 90, 95, 99)
_SHOWN = 5
_TOKENIZED_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the texts of one role."""

    count: int
    mean: float
    percentiles: Mapping[int, int]  # Percentage of the texts → length that they do not exceed
    longest: int
    limit: int = 0  # Length at which texts are truncated; 0 = never
    cut: int = 0  # Number of texts longer than that


@dataclass(frozen=True, slots=True)
class Finding:
    """A kind of problem or oddity, how often it occurs, and its first few places or messages."""

    kind: str
    count: int
    first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExampleReport:
    """What one source of training examples contains.

    Attributes:
        tokens: Role → lengths in tokens without prompts; empty without a tokenizer.
    """

    source: str
    split: str
    rows: int
    faulty_rows: int  # Rows with at least one problem
    examples: int  # Usable rows; notes and lengths are about these
    problems: tuple[Finding, ...]  # What training refuses, by kind
    notes: tuple[Finding, ...]  # What training accepts but may be a mistake, by kind
    words: Mapping[str, Lengths]  # Role → lengths in words
    tokens: Mapping[str, Lengths] = field(default_factory=dict)
    scored: int = 0  # Examples with a teacher's scores

    @property
    def problem_count(self) -> int:
        """Total number of problems."""
        return sum(finding.count for finding in self.problems)

    def summary(self) -> str:
        """Return the problems on one line; "" if there are none."""
        if not self.problems:
            return ""
        kinds = ", ".join(f"{finding.kind}: {finding.count:,}" for finding in self.problems)
        return f"{self.source} has problems in {self.faulty_rows:,} of {counted(self.rows, 'row')} ({kinds})"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, width: int | None = None) -> list[str]:
        """Return the report as lines of text, its table as wide as ``width`` at most."""
        lines = [
            f"{self.source} ({self.split})",
            f"  {counted(self.rows, 'row')}, {counted(self.examples, 'example')}: "
            f"{counted(self.words['positives'].count, 'positive')}, "
            f"{counted(self.words['negatives'].count, 'negative')}",
            "",
            f"Problems: {self.problem_count:,} in {counted(self.faulty_rows, 'row')}"
            if self.problems
            else "Problems: none",
        ]
        for finding in self.problems:
            lines.append(f"  {finding.count:>9,}  {finding.kind}")
            lines += [f"{'':<13}{message}" for message in finding.first]
        if self.notes:
            lines += ["", "Worth a look"]
        for finding in self.notes:
            first = ", ".join(finding.first[:2]) + (", …" if finding.count > 2 and finding.first else "")
            lines.append(f"  {finding.count:>9,}  {finding.kind}{': ' if first else ''}{first}")
        return [*lines, "", *_length_table({"words": self.words, "tokens": self.tokens}).lines(width)]


def inspect_examples(
    source: str | Path,
    *,
    split: str = "train",
    count_tokens: Callable[[list[str]], list[int]] | None = None,
    query_max_tokens: int = 0,
    passage_max_tokens: int = 0,
    negatives: int = 0,
    reading: ReadingSettings | None = None,
) -> ExampleReport:
    """Read a source of training examples once, to its end, and report every problem.

    Texts are not kept: memory is about 32 bytes per text and 100 more per pair.

    Args:
        source: Any source that :func:`llama2vec.data.examples.labeled.read_examples` reads.
        split: Its split.
        count_tokens: Texts → their numbers of tokens; None = report words only.
        query_max_tokens, passage_max_tokens: Lengths at which texts are truncated; 0 = never.
        negatives: Fewer negatives in a row than this are a problem.
        reading: Names the fields of a BEIR folder's rows; None = the usual ones.

    Raises:
        DataError: No such source, or no row at all; problems of rows are in the report.
    """
    where = str(source)
    survey = _Survey(negatives, count_tokens)
    try:
        for row in scan_examples(where, split=split, reading=reading):
            survey.add(row)
    except DataError as error:
        # A truncated source is still worth reporting up to the fault.
        if not survey.rows:
            raise
        survey.problems.add("unreadable", str(error))
        survey.faulty_rows += 1
    if not survey.rows:
        raise no_rows(where)
    limits = dict(zip(_ROLES, (query_max_tokens, passage_max_tokens, passage_max_tokens), strict=True))
    return ExampleReport(
        where, split, survey.rows, survey.faulty_rows, survey.examples, survey.problems.findings(),
        (*survey.notes.findings(), *survey.without_scores(), *survey.between_rows()),
        words={role: _lengths(survey.words[role]) for role in _ROLES},
        tokens={role: _lengths(survey.tokens(role), limits[role]) for role in _ROLES if count_tokens},
        scored=survey.scored,
    )  # fmt: skip


class _Tally:
    """Counts by kind, and keeps the first few of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, what: str) -> None:
        self._counts[kind] += 1
        if len(self._first[kind]) < _SHOWN:
            self._first[kind].append(what)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(Finding(kind, count, tuple(self._first[kind])) for kind, count in self._counts.items())


def _numbers() -> dict[Role, array[int]]:
    return {role: array("Q") for role in _ROLES}


class _Survey:
    """What is counted row by row; only 8-byte hashes and lengths of the texts are kept."""

    def __init__(self, negatives: int, count_tokens: Callable[[list[str]], list[int]] | None) -> None:
        self._negatives, self._count_tokens = negatives, count_tokens
        self.rows = self.faulty_rows = self.examples = self.scored = 0
        self.problems, self.notes, self._unscored = _Tally(), _Tally(), _Tally()
        self.words, self._tokens = _numbers(), _numbers()
        self._waiting: dict[Role, list[str]] = {role: [] for role in _ROLES}
        self._queries, self._pairs = set[int](), set[int]()
        # Of each positive and negative: the text, and the query with the text.
        self._texts, self._labels = _numbers(), _numbers()

    def add(self, row: ExampleRow) -> None:
        self.rows += 1
        where, problems = row.where.rstrip(","), [(problem.kind, problem.message) for problem in row.problems]
        if row.example:
            self.examples += 1
            there = len(row.example.negatives)
            if there < self._negatives:
                message = (
                    f"{row.where} has {there} of {counted(self._negatives, 'negative')}; mine more or ask for fewer"
                )
                problems.append(("too few negatives", message))
            sides = (row.example.query,), row.example.positives, row.example.negatives
            for role, texts in zip(_ROLES, sides, strict=True):
                self._measure(role, texts)
            self._note(row.example, where)
        for kind, message in problems:
            self.problems.add(kind, message)
        self.faulty_rows += bool(problems)

    def tokens(self, role: Role) -> array[int]:
        if self._count_tokens and self._waiting[role]:
            self._tokens[role].extend(self._count_tokens(self._waiting[role]))
            self._waiting[role] = []
        return self._tokens[role]

    def without_scores(self) -> tuple[Finding, ...]:
        """Return the rows without a teacher's scores, where other rows have them."""
        return self._unscored.findings() if self.scored else ()

    def between_rows(self) -> list[Finding]:
        """Return texts that are a positive in one row and a negative in another; worst if the query is the same."""
        texts, labels = self._texts, self._labels
        own = np.isin(labels["negatives"], labels["positives"])
        others = np.isin(texts["negatives"], texts["positives"]) & ~own
        found = {
            "positives that are another query's negative": len(np.unique(np.asarray(texts["negatives"])[others])),
            "negatives that are positives in another row": int(own.sum()),
        }
        return [Finding(kind, count) for kind, count in found.items() if count]

    def _measure(self, role: Role, texts: tuple[str, ...]) -> None:
        self.words[role].extend(map(count_words, texts))
        if self._count_tokens:
            self._waiting[role] += texts
            if len(self._waiting[role]) >= _TOKENIZED_AT_ONCE:
                self.tokens(role)

    def _note(self, example: TrainingExample, where: str) -> None:
        query, positives, negatives = (
            text_key(example.query), [*map(text_key, example.positives)], [*map(text_key, example.negatives)]
        )  # fmt: skip
        if _seen(self._queries, query):
            self.notes.add("queries that an earlier row has", where)
        for text in positives:
            if _seen(self._pairs, (query, text)):
                self.notes.add("pairs of query and positive that came before", where)
        if query in positives:
            self.notes.add("queries that are their own positive", where)
        if len(set(negatives)) < len(negatives):
            self.notes.add("rows with one negative twice", where)
        if not negatives:
            self.notes.add("rows without negatives", where)
        if example.positive_scores:
            self.scored += 1
        else:
            self._unscored.add("rows without scores, which others have", where)
        sides: tuple[tuple[Role, list[str]], ...] = (("positives", positives), ("negatives", negatives))
        for role, texts in sides:
            self._texts[role].extend(map(_hash, texts))
            self._labels[role].extend(_hash((query, text)) for text in texts)


def _hash(item: object) -> int:
    # Python's hash differs between processes, and these counts live in one.
    return hash(item) & 0xFFFF_FFFF_FFFF_FFFF


def _seen(known: set[int], item: object) -> bool:
    """Tell whether an item came before, and remember it."""
    size = len(known)
    known.add(_hash(item))
    return len(known) == size


def _lengths(values: array[int], limit: int = 0) -> Lengths:
    numbers = np.array(values, dtype=np.uint64)
    if not len(numbers):
        return Lengths(0, 0.0, dict.fromkeys(_PERCENTILES, 0), 0, limit)
    # A length that occurs: "95 % of the texts have at most so many".
    at = np.percentile(numbers, _PERCENTILES, method="inverted_cdf")
    percentiles = dict(zip(_PERCENTILES, map(int, at), strict=True))
    cut = int((numbers > limit).sum()) if limit else 0
    return Lengths(len(numbers), round(float(numbers.mean()), 2), percentiles, int(numbers.max()), limit, cut)


def _length_table(units: Mapping[str, Mapping[str, Lengths]]) -> Table:
    limited = any(lengths.limit for roles in units.values() for lengths in roles.values())
    rows = [["Lengths", "count", "mean", *(f"{at}%" for at in _PERCENTILES), "longest", *["truncated"][:limited]]]
    for unit, roles in units.items():
        for role, lengths in roles.items():
            numbers = [*lengths.percentiles.values(), lengths.longest]
            share = lengths.cut / max(1, lengths.count)
            cut = [f"{share:.1%} longer than {lengths.limit:,}" if lengths.limit else ""][:limited]
            figures = f"{lengths.count:,}", f"{lengths.mean:,.1f}", *(f"{number:,}" for number in numbers)
            rows.append([f"{role}, {unit}", *figures, *cut])
    return Table(rows, texts=["truncated"])

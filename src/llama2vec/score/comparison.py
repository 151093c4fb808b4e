"""Is one system better than another? Compare results of the same queries, query by query."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import EvaluationError
from llama2vec.records import Passage, Qrels, Query, Report, Run
from llama2vec.retrieve.search.hits import snippet
from llama2vec.score.metrics import check_returned, evaluate_run, warn_of_missing_queries, warn_of_short_run
from llama2vec.score.significance import (
    CONFIDENCE,
    MOST_FLIPS,
    SAME,
    Groups,
    bootstrap_difference,
    detectable_difference,
    effect_size,
    holm,
    mean_difference,
    query_differences,
    randomization_test,
    t_test,
)
from llama2vec.terminal import counted

_SNIPPET_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What one system gains over another."""

    first: str  # The baseline
    second: str  # The system compared with it
    difference: float  # Mean of second - first
    interval: tuple[float, float]  # Its 95 % bootstrap interval
    effect_size: float | None  # Cohen's d_z; None if every query differs by the same amount
    effect_interval: tuple[float, float] | None  # Its 95 % bootstrap interval
    t_p: float | None  # Two-sided p of the paired t-test; None if every query differs by the same amount
    randomization_p: float  # Two-sided p of the paired randomization test
    t_p_corrected: float | None  # After Holm's correction over the pairs of the comparison
    randomization_p_corrected: float  # The same
    wins: int  # Queries on which second is better by more than 1e-9
    ties: int  # Queries without a difference
    losses: int  # Queries on which first is better
    changed: tuple[tuple[str, float, float], ...] = ()  # (query id, first, second): best gains, then worst losses
    detectable_difference: float | None = None  # What so many queries show at p < 0.05 with 80 % power
    flips: int | None = None  # Random sign patterns of the randomization test; None if all patterns were tried


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage near the top of a run."""

    rank: int
    id: str
    score: float
    gain: int | None  # What the judgments say; None = not judged
    title: str = ""  # Empty, like the snippet, until texts are looked up
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query that changed, and each system's best passages for it; the text is empty until it is looked up."""

    text: str
    answers: Mapping[str, tuple[ShownPassage, ...]]


@dataclass(frozen=True)
class Comparison:
    """Systems compared on one task by one metric."""

    task: str  # What they were evaluated on
    metric: str  # Such as ``nDCG@10``
    systems: Mapping[str, float]  # System → mean over all judged queries
    per_query: Mapping[str, Mapping[str, float]]  # System → query id → value; every system has the same queries
    pairs: Sequence[PairedTest]  # One test per compared pair
    settings: Mapping[str, Any] = field(default_factory=dict)  # How it was made
    shown: Mapping[str, ShownQuery] = field(default_factory=dict)  # Query id → texts of the changed queries


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """How systems are compared."""

    all_pairs: bool = False  # Compare every pair, not just the first system with each other one
    changed: int = 5  # Queries listed per pair that gained most, and that lost most
    passages: int = 2  # Passages of each run shown per listed query
    flips: int = 100_000
    resamples: int = 2000
    seed: int = 0


_DEFAULTS = ComparisonOptions()


def check_options(options: ComparisonOptions) -> None:
    """Check the options before any work; one that is out of range raises an EvaluationError."""
    if options.changed < 0:
        raise EvaluationError(f"changed is {options.changed}; list 0 queries or more")
    if not 1 <= options.flips <= MOST_FLIPS:
        raise EvaluationError(f"flips is {options.flips}; choose 1 to {MOST_FLIPS:,} sign patterns")


def compare_runs(
    runs: Sequence[Run],
    qrels: Qrels,
    *,
    metrics: Sequence[str] = ("nDCG@10",),
    task: str = "",
    options: ComparisonOptions = _DEFAULTS,
) -> list[Comparison]:
    """Compare what two or more systems returned for the same queries, by each metric; a missing query scores 0.

    Tags must be distinct; the first run is the baseline.

    >>> runs = [Run({"q1": {"b": 2.0, "a": 1.0}, "q2": {"c": 1.0}}, "old"), Run({"q1": {"a": 1.0}, "q2": {}}, "new")]
    >>> [comparison] = compare_runs(runs, {"q1": {"a": 1}, "q2": {"c": 1}}, metrics=["MRR@10"])
    >>> comparison.pairs[0].difference, comparison.pairs[0].randomization_p
    (-0.25, 1.0)

    Raises:
        EvaluationError: Runs that cannot be compared, or that :func:`llama2vec.score.metrics.evaluate_run` refuses.
    """
    _check_systems([run.tag for run in runs])
    reports = [evaluate_run(run, qrels, task=task, metrics=metrics) for run in runs]
    judged = {query_id for query_id in qrels if qrels[query_id]}
    for first, second in _pairs(runs, options):
        if not judged & first.results.keys() & second.results.keys():
            names = f"runs {first.tag!r} and {second.tag!r}"
            raise EvaluationError(f"{names} have no judged query in common; compare runs of the same queries")
    _warn_of_missing_queries(runs, judged)
    # The corpus has at least these passages.
    known = set[str]().union(*(found for run in runs for found in run.results.values()), *qrels.values())
    for run in runs:
        lengths = [len(found) for query_id, found in run.results.items() if found and query_id in judged]
        warn_of_short_run(run.tag, lengths, metrics, len(known))
    facts = {
        "judged_queries": len(judged),
        "unanswered_queries": {report.system: report.settings["unanswered_queries"] for report in reports},
        "depth": {run.tag: max(map(len, run.results.values())) for run in runs},
        "ir_measures": reports[0].settings["ir_measures"],
    }
    found = []
    for metric in metrics:
        comparison = compare_reports(reports, metric=metric, options=options)
        shown = _shown_queries(comparison, runs, qrels, options.passages)
        settings = {**facts, **comparison.settings}
        found.append(dataclasses.replace(comparison, settings=settings, shown=shown))
    return found


def _warn_of_missing_queries(runs: Sequence[Run], judged: Set[str]) -> None:
    """Warn where a run lacks most of the judged queries that others answer: it may be of another split, or cut off."""
    answered = {run.tag: judged & {query_id for query_id, found in run.results.items() if found} for run in runs}
    asked = set[str]().union(*answered.values())
    for tag, found in answered.items():
        if 2 * len(found) < len(asked):
            others = f"{counted(len(asked), 'judged query', 'judged queries')} that the other runs answer"
            warn_of_missing_queries(tag, len(asked) - len(found), others)


def with_texts(
    comparisons: Sequence[Comparison],
    runs: Sequence[Run],
    queries: Iterable[Query],
    corpus_source: str,
    reading: ReadingSettings | None = None,
) -> list[Comparison]:
    """Return the comparisons with the texts of the queries and passages they show; the corpus is read once.

    Raises:
        EvaluationError: Most of what a run returned is not in the corpus.
    """
    returned = {run.tag: set[str]().union(*run.results.values()) for run in runs}
    missing = set[str]().union(*returned.values())
    queries_shown = [query for comparison in comparisons for query in comparison.shown.values()]
    shown = {passage.id for query in queries_shown for found in query.answers.values() for passage in found}
    texts: dict[str, Passage] = {}
    for passage in read_passages(corpus_source, settings=reading):
        missing.discard(passage.id)
        if passage.id in shown:
            texts[passage.id] = passage
    for tag, ids in returned.items():
        check_returned(tag, ids, missing, corpus_source)
    asked = {query.id: query.text for query in queries}

    def told(passage: ShownPassage, query: str) -> ShownPassage:
        found = texts.get(passage.id)
        if found is None:
            return passage
        part = snippet(found.text, query, _SNIPPET_CHARACTERS)
        return dataclasses.replace(passage, title=found.title, snippet=part)

    def filled(query_id: str, query: ShownQuery) -> ShownQuery:
        text = asked.get(query_id, "")
        answers = {system: tuple(told(one, text) for one in found) for system, found in query.answers.items()}
        return ShownQuery(text, answers)

    return [
        dataclasses.replace(one, shown={query_id: filled(query_id, query) for query_id, query in one.shown.items()})
        for one in comparisons
    ]


def compare_reports(
    reports: Sequence[Report], *, metric: str = "nDCG@10", options: ComparisonOptions = _DEFAULTS
) -> Comparison:
    """Compare systems by their values per query: two or more reports of one task over the same queries.

    Raises:
        EvaluationError: Reports that do not fit together, or one without the metric.
    """
    _check_systems([report.system for report in reports])
    if len({report.task for report in reports}) > 1:
        tasks = ", ".join(dict.fromkeys(report.task for report in reports))
        raise EvaluationError(f"the reports belong to different tasks ({tasks}); compare one task at a time")
    without = next((report.system for report in reports if metric not in report.per_query), None)
    if without is not None:
        raise EvaluationError(f"the report of '{without}' has no values per query of '{metric}'; evaluate with it")
    queries = sorted(reports[0].per_query[metric])
    if len(queries) < 2:
        raise EvaluationError(f"{len(queries)} judged query is too few to compare systems; give two or more")
    per_query: dict[str, dict[str, float]] = {}
    for report in reports:
        values = report.per_query[metric]
        if sorted(values) != queries:
            names = f"'{reports[0].system}' and '{report.system}'"
            raise EvaluationError(f"the reports of {names} cover different queries; evaluate both on one qrels file")
        per_query[report.system] = {query_id: values[query_id] for query_id in queries}
    return _compare(reports[0].task, metric, {"": per_query}, list(_pairs(list(per_query), options)), options)


def pooled_comparison(comparisons: Sequence[Comparison], *, options: ComparisonOptions = _DEFAULTS) -> Comparison:
    """Compare systems over several tasks at once by the mean of the tasks' means, so that every task counts alike.

    Queries are named ``task:query``, and ``settings["tasks"]`` holds each task's means.

    Raises:
        EvaluationError: No comparison, one task twice, or systems, pairs or metrics that differ.
    """
    if not comparisons:
        raise EvaluationError("nothing to pool; compare runs on at least one task")
    tasks = [comparison.task for comparison in comparisons]
    twice = next((task for task in tasks if tasks.count(task) > 1), None)
    if twice is not None:
        raise EvaluationError(f"two comparisons are of the task '{twice}'; give each task once")
    pairs = [(pair.first, pair.second) for pair in comparisons[0].pairs]
    for comparison in comparisons[1:]:
        alike = comparison.metric == comparisons[0].metric, set(comparison.systems) == set(comparisons[0].systems)
        if not all(alike) or [(pair.first, pair.second) for pair in comparison.pairs] != pairs:
            what = f"'{tasks[0]}' and '{comparison.task}'"
            raise EvaluationError(f"{what} compare different systems, pairs or metrics; compare alike on every task")
    values = {comparison.task: comparison.per_query for comparison in comparisons}
    pooled = _compare(" + ".join(tasks), comparisons[0].metric, values, pairs, options)
    shown = {f"{one.task}:{query_id}": query for one in comparisons for query_id, query in one.shown.items()}
    changed = {query_id for pair in pooled.pairs for query_id, _, _ in pair.changed}
    return dataclasses.replace(
        pooled,
        settings={**pooled.settings, "tasks": {one.task: dict(one.systems) for one in comparisons}},
        shown={query_id: query for query_id, query in shown.items() if query_id in changed},
    )


def _check_systems(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise EvaluationError(f"comparing needs at least two runs, not {len(names)}; give each system's run")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EvaluationError(f"two runs are called '{twice}'; give each run its own tag")


def _pairs(systems: Sequence[Any], options: ComparisonOptions) -> list[tuple[Any, Any]]:
    if options.all_pairs:
        return list(itertools.combinations(systems, 2))
    return [(systems[0], other) for other in systems[1:]]


def _compare(
    task: str,
    metric: str,
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    pairs: Sequence[tuple[str, str]],
    options: ComparisonOptions,
) -> Comparison:
    """Test every pair; ``values`` are task → system → query id → value."""
    systems = list(next(iter(values.values())))
    means = {
        system: math.fsum(math.fsum(by[system].values()) / max(len(by[system]), 1) for by in values.values())
        / len(values)
        for system in systems
    }
    check_options(options)
    tests = corrected([_test_pair(first, second, values, options) for first, second in pairs])
    return Comparison(
        task=task,
        metric=metric,
        systems=means,
        per_query={
            system: {_name(one, query): value for one, by in values.items() for query, value in by[system].items()}
            for system in systems
        },
        pairs=tests,
        settings={
            "correction": f"Holm, over the {len(tests)} pairs of this comparison",
            "confidence": CONFIDENCE,
            "tie_tolerance": SAME,
            "flips": options.flips,
            "resamples": options.resamples,
            "seed": options.seed,
        },
    )


def corrected(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Return tests with their p-values corrected (Holm) over all of them."""
    t_p, randomization_p = holm([test.t_p for test in tests]), holm([test.randomization_p for test in tests])
    return [
        dataclasses.replace(test, t_p_corrected=t, randomization_p_corrected=1.0 if other is None else other)
        for test, t, other in zip(tests, t_p, randomization_p, strict=True)
    ]


def _test_pair(
    first: str, second: str, values: Mapping[str, Mapping[str, Mapping[str, float]]], options: ComparisonOptions
) -> PairedTest:
    """Test one pair; the corrected p-values are still those of this pair alone."""
    groups: Groups = [
        query_differences([*by[first].values()], [by[second][query] for query in by[first]]) for by in values.values()
    ]
    interval, effect_interval = bootstrap_difference(groups, resamples=options.resamples, seed=options.seed)
    t_p = t_test(groups)
    randomization_p, flips = randomization_test(groups, flips=options.flips, seed=options.seed)
    named = [
        (float(difference), _name(task, query_id), by[first][query_id], by[second][query_id])
        for (task, by), differences in zip(values.items(), groups, strict=True)
        for query_id, difference in zip(by[first], differences, strict=True)
    ]
    gained = sorted((row for row in named if row[0] > 0), key=lambda row: (-row[0], row[1]))
    lost = sorted((row for row in named if row[0] < 0), key=lambda row: (row[0], row[1]))
    changed = [*gained[: options.changed], *lost[: options.changed]]
    return PairedTest(
        first=first,
        second=second,
        difference=mean_difference(groups),
        interval=interval,
        effect_size=effect_size(groups),
        effect_interval=effect_interval,
        t_p=t_p,
        randomization_p=randomization_p,
        t_p_corrected=t_p,
        randomization_p_corrected=randomization_p,
        wins=len(gained),
        ties=len(named) - len(gained) - len(lost),
        losses=len(lost),
        changed=tuple(row[1:] for row in changed),
        detectable_difference=detectable_difference(groups),
        flips=flips,
    )


def _name(task: str, query_id: str) -> str:
    return f"{task}:{query_id}" if task else query_id


def _shown_queries(comparison: Comparison, runs: Sequence[Run], qrels: Qrels, depth: int) -> dict[str, ShownQuery]:
    """Return the changed queries with the best passages of every run, without texts; with depth 0, of none."""

    def best(run: Run, query_id: str) -> tuple[ShownPassage, ...]:
        ranking = run.ranking(query_id)[:depth] if query_id in run.results else []
        return tuple(
            ShownPassage(rank, passage_id, float(score), qrels[query_id].get(passage_id))
            for rank, (passage_id, score) in enumerate(ranking, start=1)
        )

    changed = dict.fromkeys(query_id for pair in comparison.pairs for query_id, _, _ in pair.changed)
    shown = runs if depth else ()
    return {query_id: ShownQuery("", {run.tag: best(run, query_id) for run in shown}) for query_id in changed}
